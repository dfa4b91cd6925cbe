"""Hybrid inference: every sequence is decoded once in every latent space (METHOD 1.4, 7).

One batch is :func:`recbole_ra.regeneration.hybrid.decode`; here are the whole table and its coins.
Shapes: ``P`` latent spaces, ``T`` steps.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_ra.core.errors import CheckpointError, SettingsError
from recbole_ra.core.files import digest_bytes, read_arrays, write_arrays
from recbole_ra.core.seeding import stream
from recbole_ra.core.workers import Alone, Workers
from recbole_ra.data.table import IntArray, Origin, SequenceTable, gather_windows
from recbole_ra.regeneration.hybrid import decode
from recbole_ra.regeneration.network import Regenerator

BLOCK = 1024
"""Sources whose coins are drawn together and whose result is one file."""

VARIANTS = ("paper", "released")


@dataclass(frozen=True, eq=False)
class Decoded:
    """Decoded rows, ordered by source, then by latent space.

    Attributes
    ----------
    items : int32 array, shape [total length]
        Row ``r`` is ``items[offsets[r]:offsets[r + 1]]``; it may be empty.
    offsets : int64 array, shape [rows + 1]
    source : int64 array, shape [rows]
        Row of the table that was decoded.
    latent : int64 array, shape [rows]
    """

    items: NDArray[np.int32]
    offsets: IntArray
    source: IntArray
    latent: IntArray

    def __len__(self) -> int:
        return len(self.source)

    def to_table(self, sources: SequenceTable) -> SequenceTable:
        """All rows as sequences of their sources' owners, empty ones too."""
        return SequenceTable.from_arrays(
            self.items,
            self.offsets,
            sources.n_items,
            users=sources.users[self.source],
            origin=Origin.REGENERATED,
        )

    def save(self, folder: Path) -> None:
        """Write ``decoded.npz``."""
        write_arrays(
            folder / "decoded.npz",
            items=self.items,
            offsets=self.offsets,
            source=self.source,
            latent=self.latent,
        )

    @classmethod
    def load(cls, folder: Path) -> Decoded:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is missing or damaged.
        """
        path = folder / "decoded.npz"
        arrays = read_arrays(path, ("items", "offsets", "source", "latent"))
        if arrays is None:
            raise CheckpointError(f"{path}: missing or damaged; delete {folder} and decode again")
        return cls(*arrays)


def regenerate_sequences(
    model: Regenerator,
    sources: SequenceTable,
    *,
    gamma: float = 0.5,
    max_tokens: int = 25,
    seed: int,
    variant: str = "paper",
    batch_size: int = 128,
    folder: Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    workers: Workers | None = None,
) -> Decoded:
    """Decode every source in every latent space.

    Parameters
    ----------
    model : Regenerator
        Moved to ``device``.
    sources : SequenceTable
        Rows no longer than the model's position table; a row without items gives empty rows.
    gamma : float
        Probability that a step may take any item.
    max_tokens : int
        Most items of a decoded row.
    seed : int
        Of the coins.
    variant : str
        ``"paper"``, or ``"released"``: the first two steps take items of the source, all later ones
        any item, whatever ``gamma`` (METHOD 7).
    batch_size : int
        Sources decoded together; beyond some hundreds their states no longer fit a CPU's cache.
    folder : Path, optional
        Receives a file for each finished block of 1024 sources, so that an interrupted call
        continues. A file that was made from anything else than these arguments is made again.
    device : torch.device, optional
        By default where the model is.
    progress : bool
        Whether to show a bar on stderr, if that is a terminal.
    workers : Workers, optional
        Share the blocks; what is decoded does not depend on them.

    Returns
    -------
    Decoded
        ``len(sources) * P`` rows.

    Raises
    ------
    SettingsError
        If a setting is out of range.
    """
    _check(model, gamma, max_tokens, variant)
    device = next(model.parameters()).device if device is None else device
    model.to(device)
    longest, known = int(sources.lengths.max(initial=0)), model.source_positions.num_embeddings
    if longest > known:
        raise ValueError(f"a source has {longest} items, but the model has {known} positions")
    blocks = [np.arange(first, min(first + BLOCK, len(sources))) for first in range(0, len(sources), BLOCK)]
    parts: list[tuple[NDArray[np.int32], IntArray] | None] = [None] * len(blocks)
    key = ""
    if folder is not None:
        key = _identity(model, sources, gamma, max_tokens, seed, variant)
        parts = [_read_block(_block_file(folder, number), key) for number in range(len(blocks))]
    with tqdm(
        total=len(sources),
        initial=sum(len(rows) for rows, part in zip(blocks, parts, strict=True) if part is not None),
        desc="decoding",
        unit=" sequences",
        disable=not progress or None,
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
    ) as bar:
        missing = [number for number, part in enumerate(parts) if part is None]
        shared = _Task(model, sources, gamma, max_tokens, seed, variant, batch_size, torch.device(device))
        found = (workers or Alone()).map(decode_block, shared, [(n, blocks[n]) for n in missing])
        for number, part in zip(missing, found, strict=True):
            if folder is not None:
                origin = np.frombuffer(key.encode(), np.uint8)
                write_arrays(_block_file(folder, number), items=part[0], lengths=part[1], key=origin)
            parts[number] = part
            bar.update(len(blocks[number]))
    done = [part for part in parts if part is not None]
    items = np.concatenate([np.zeros(0, dtype=np.int32), *(part[0] for part in done)])
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(part[1] for part in done)])
    spaces = np.arange(model.n_latents)
    return Decoded(
        items,
        np.concatenate([[0], np.cumsum(lengths)]),
        np.repeat(np.arange(len(sources)), len(spaces)),
        np.tile(spaces, len(sources)),
    )


def draw_coins(
    seed: int,
    block: int,
    n_sources: int,
    n_latents: int,
    max_tokens: int,
    gamma: float,
    variant: str = "paper",
) -> NDArray[np.bool_]:
    """Which steps of a block are generative, bool [sources, P, T].

    A source's coins depend on the seed, the block and its place there; not on the batch size, nor
    on how many sources follow it.
    """
    shape = n_sources, n_latents, max_tokens
    if variant == "released":
        return np.broadcast_to(np.arange(max_tokens) >= 2, shape)
    coins: NDArray[np.bool_] = stream(seed, "coins", block).random(shape) < gamma
    return coins


@dataclass(frozen=True)
class _Task:
    """What the decoding of all blocks has in common."""

    model: Regenerator
    sources: SequenceTable
    gamma: float
    max_tokens: int
    seed: int
    variant: str
    batch_size: int
    device: torch.device


def decode_block(task: _Task, block: tuple[int, IntArray]) -> tuple[NDArray[np.int32], IntArray]:
    """Items, and lengths [rows * P], of a block of sources, decoded in order of length."""
    number, rows = block
    model, sources = task.model.to(task.device), task.sources
    coins = draw_coins(
        task.seed, number, len(rows), model.n_latents, task.max_tokens, task.gamma, task.variant
    )
    tokens = np.zeros(coins.shape, dtype=np.int32)
    lengths = sources.lengths[rows]
    order = np.argsort(lengths, kind="stable")
    empty = int((lengths == 0).sum())
    for first, last in itertools.pairwise([*range(empty, len(rows), task.batch_size), len(rows)]):
        part = order[first:last]
        items = gather_windows(sources.items, sources.offsets[rows[part]], lengths[part])
        given = torch.from_numpy(items).to(task.device), torch.from_numpy(coins[part]).to(task.device)
        tokens[part] = decode(model, *given).cpu().numpy()
    return tokens[tokens > 0], np.count_nonzero(tokens, axis=2).reshape(-1)


def _check(model: Regenerator, gamma: float, max_tokens: int, variant: str) -> None:
    if not 0 <= gamma <= 1:
        raise SettingsError(f"gamma={gamma} is no probability; use a number between 0 and 1")
    if variant not in VARIANTS:
        raise SettingsError(f"variant={variant!r} must be one of {', '.join(VARIANTS)}")
    most = model.target_positions.num_embeddings
    if not 1 <= max_tokens <= most:
        raise SettingsError(
            f"max_tokens={max_tokens} must lie in 1..{most}, the positions of the regenerator"
        )


def _identity(
    model: Regenerator, sources: SequenceTable, gamma: float, max_tokens: int, seed: int, variant: str
) -> str:
    """Digest of everything that decides what is decoded."""
    weights = [tensor.detach().cpu().numpy().tobytes() for tensor in model.state_dict().values()]
    settings = repr((model.n_heads, BLOCK, float(gamma), max_tokens, seed, variant))
    return digest_bytes(sources.fingerprint().encode(), settings.encode(), *weights)


def _block_file(folder: Path, number: int) -> Path:
    return folder / f"block-{number:06d}.npz"


def _read_block(path: Path, key: str) -> tuple[NDArray[np.int32], IntArray] | None:
    """Items and lengths of a finished block, or None if it is missing, damaged or another's."""
    arrays = read_arrays(path, ("items", "lengths", "key"))
    return None if arrays is None or arrays[2].tobytes() != key.encode() else (arrays[0], arrays[1])
