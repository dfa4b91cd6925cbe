"""Hybrid inference: every sequence is decoded once in every latent space (METHOD 1.4, 7).

Decoding is greedy, each step restrictive or generative. Shapes: ``B`` sources of ``L`` items, ``P``
latent spaces, ``T`` steps, ``R`` rows (a source in a space) that are still being decoded, ``D`` width.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from recbole_ra.core.errors import CheckpointError
from recbole_ra.core.files import digest_bytes, read_arrays, write_arrays
from recbole_ra.core.seeding import stream
from recbole_ra.core.workers import OneProcess, Workers
from recbole_ra.data.table import IntArray, Origin, SequenceTable, gather_windows, offsets_of
from recbole_ra.models.softmax import CPU_CHUNK_ELEMENTS, GPU_CHUNK_ELEMENTS
from recbole_ra.regeneration.network import Regenerator

BLOCK = 1024
"""Sources whose coins are drawn together and whose result is one file."""


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
        """Make all rows sequences of their sources' owners, empty ones too."""
        users = sources.users[self.source]
        return SequenceTable.from_arrays(
            self.items, self.offsets, sources.n_items, users=users, origin=Origin.REGENERATED
        )

    def save(self, folder: Path) -> None:
        """Write ``decoded.npz``."""
        write_arrays(folder / "decoded.npz", **vars(self))

    @classmethod
    def load(cls, folder: Path) -> Decoded:
        """Read what :meth:`save` wrote; a missing or damaged file raises ``CheckpointError``."""
        path = folder / "decoded.npz"
        arrays = read_arrays(path, [field.name for field in dataclasses.fields(cls)])
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
    """Decode every source in every latent space: ``len(sources) * P`` rows.

    Parameters
    ----------
    model : Regenerator
        Moved to ``device``, by default left where it is.
    sources : SequenceTable
        Rows no longer than the model's position table; a row without items gives empty rows.
    gamma : float
        Probability that a step may take any item.
    max_tokens : int
        Most items of a decoded row; the model needs a position for each.
    variant : {"paper", "released"}
        A coin for each step; or, whatever ``gamma``, two steps that take items of the source and
        then only steps that take any item (METHOD 7).
    batch_size : int
        Sources decoded together; beyond some hundreds their states no longer fit a CPU's cache.
    folder : Path, optional
        Receives a file for each finished block of 1024 sources, so that an interrupted call
        continues. A file that was made from anything else than these arguments is not used.
    workers : Workers, optional
        Share the blocks; what is decoded does not depend on them.
    """
    device = next(model.parameters()).device if device is None else torch.device(device)
    task = _Task(model.to(device), sources, gamma, max_tokens, seed, variant, batch_size, device)
    items, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
    with tqdm(
        total=len(sources), desc="decoding", unit=" sequences", disable=not progress or None, leave=False
    ) as bar:
        for block_items, block_lengths in _blocks(task, folder, workers or OneProcess()):
            items.append(block_items)
            lengths.append(block_lengths)
            bar.update(len(block_lengths) // model.n_latents)
    return Decoded(
        np.concatenate(items),
        offsets_of(np.concatenate(lengths)),
        np.repeat(np.arange(len(sources)), model.n_latents),
        np.tile(np.arange(model.n_latents), len(sources)),
    )


def draw_coins(
    seed: int, block: int, shape: tuple[int, int, int], gamma: float, variant: str = "paper"
) -> NDArray[np.bool_]:
    """Draw which steps of a block are generative, bool of shape [sources, P, T].

    A source's coins depend on the seed, the block and its place there; not on the batch size, nor
    on how many sources follow it.
    """
    if variant == "released":
        return np.broadcast_to(np.arange(shape[2]) >= 2, shape)
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

    def digest(self) -> str:
        """Of everything that decides what is decoded."""
        weights = [tensor.detach().cpu().numpy().tobytes() for tensor in self.model.state_dict().values()]
        settings = repr((BLOCK, float(self.gamma), self.max_tokens, self.seed, self.variant))
        return digest_bytes(self.sources.fingerprint().encode(), settings.encode(), *weights)


def _blocks(task: _Task, folder: Path | None, workers: Workers) -> Iterator[Sequence[NDArray[Any]]]:
    """Yield items and lengths of every block, in order: read if finished before, else decoded and written."""
    numbers = range(-(-len(task.sources) // BLOCK))
    if folder is None:
        yield from workers.map(decode_block, task, numbers)
        return
    origin = task.digest()[:16]
    files = [folder / f"block-{number:06d}-{origin}.npz" for number in numbers]
    finished = [read_arrays(file, ("items", "lengths")) for file in files]
    missing = [number for number in numbers if finished[number] is None]
    decoded = workers.map(decode_block, task, missing)
    for file, known in zip(files, finished, strict=True):
        items, lengths = next(decoded) if known is None else known
        if known is None:
            write_arrays(file, items=items, lengths=lengths)
        yield items, lengths


def decode_block(task: _Task, number: int) -> tuple[NDArray[np.int32], IntArray]:
    """Decode a block of sources, in order of length: items, and lengths [sources * P]."""
    model, sources = task.model.to(task.device), task.sources
    rows = np.arange(number * BLOCK, min((number + 1) * BLOCK, len(sources)))
    shape = len(rows), model.n_latents, task.max_tokens
    coins = draw_coins(task.seed, number, shape, task.gamma, task.variant)
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


@torch.no_grad()
def decode(model: Regenerator, sources: Tensor, coins: Tensor) -> Tensor:
    """Decode one batch greedily in all latent spaces at once.

    Parameters
    ----------
    model : Regenerator
        Put into evaluation mode; the promoter has no part in it.
    sources : int64 Tensor, shape [B, L]
        Right-padded with 0, at least one item in each.
    coins : bool Tensor, shape [B, P, T]
        True where a step is generative: any item may follow. Else only items of the source may.
        An item is never produced twice; the end symbol may always follow.

    Returns
    -------
    int64 Tensor, shape [B, P, T]
        Right-padded with 0. Of equal scores the lowest item id wins, the end symbol last.
    """
    model.eval()
    n_latents, n_steps = coins.shape[1:]
    hidden = sources == 0
    # Ascending, so that the first of equal scores is the lowest id; padding moves to the end.
    last = torch.iinfo(torch.int64).max
    candidates = sources.masked_fill(hidden, last).sort(1).values
    used = F.pad(candidates[:, 1:] == candidates[:, :-1], (1, 0)) | (candidates == last)
    candidates = candidates.masked_fill(candidates == last, 0)
    hidden, candidates, used = (x.repeat_interleave(n_latents, 0) for x in (hidden, candidates, used))
    vectors = F.embedding(candidates, model.item_table)  # [R, L, D]
    cache = model.decoder.start(model.memories(sources).flatten(0, 1), hidden, n_steps)
    row = torch.arange(len(hidden), device=sources.device)  # [R], of the result
    ended = torch.zeros_like(row, dtype=torch.bool)
    latest = torch.full_like(row, model.begin)
    generative = coins.flatten(0, 1)
    tokens = torch.zeros_like(generative, dtype=torch.int64)
    # So few rows that their scores of all items stay in the processor's cache until they are read.
    budget = CPU_CHUNK_ELEMENTS if sources.device.type == "cpu" else GPU_CHUNK_ELEMENTS
    rows_at_once = max(16, budget // model.n_items)
    for step in range(n_steps):
        states = model.step(latest, cache)
        scores = torch.bmm(vectors, states[:, :, None]).squeeze(2).masked_fill_(used, -torch.inf)
        best, place = scores.max(1)
        latest = candidates.gather(1, place[:, None]).squeeze(1)
        free = (generative[row, step] & ~ended).nonzero().squeeze(1)
        for part in torch.split(free, rows_at_once):
            best[part], latest[part] = _best_of_all(model, states[part], tokens[row[part], :step])
        latest.masked_fill_(states @ model.item_table[model.end] > best, model.end)
        used |= candidates == latest[:, None]
        ended |= latest == model.end
        tokens[row, step] = latest.masked_fill(ended, 0)
        n_ended = int(ended.sum())
        if n_ended == len(row):
            break
        if 4 * n_ended >= len(row):  # less often, the copying would cost more than it saves
            alive = (~ended).nonzero().squeeze(1)
            cache.keep(alive)
            state = row, candidates, used, vectors, ended, latest
            row, candidates, used, vectors, ended, latest = (x[alive] for x in state)
    return tokens.view(coins.shape)


def _best_of_all(model: Regenerator, states: Tensor, produced: Tensor) -> tuple[Tensor, Tensor]:
    """Best score and item of the whole catalogue but ``produced`` [r, step], for states [r, D]."""
    scores = states @ model.item_table[1 : model.n_items].T
    scores.scatter_(1, produced - 1, -torch.inf)
    if scores.device.type == "cpu":  # the first maximum too, in a third of torch's time
        items = torch.from_numpy(scores.numpy().argmax(1))
        return scores.gather(1, items[:, None]).squeeze(1), items + 1
    best, place = scores.max(1)
    return best, place + 1
