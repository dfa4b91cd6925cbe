"""The memory bank: (encoded prefix, item that followed) pairs and the index over them (METHOD 4)."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_ra.core.errors import CheckpointError, DataError
from recbole_ra.data.table import IntArray
from recbole_ra.retrieval.index import KINDS, load_index, make_index
from recbole_ra.retrieval.index_base import Index

VERSION = 1
"""Version of the saved layout; a bank saved under another one is refused."""

_FORMAT = "recbole_ra memory bank"
_MANIFEST = "manifest.json"
_INDEX = "index.bin"
_DTYPES: dict[str, np.dtype[Any]] = {
    "keys": np.dtype(np.float32),
    "values": np.dtype(np.int64),
    "users": np.dtype(np.int64),
    "lengths": np.dtype(np.int64),
    "times": np.dtype(np.float64),
}


@dataclass(eq=False)
class MemoryBank:
    """What a query can look up. ``M`` memories, width ``D``.

    Attributes
    ----------
    keys : float32 array, shape [M, D]
        States of the frozen encoder, as they are (the index normalises its own copy).
    values : int64 array, shape [M]
        Item that followed; its vector is looked up in the item table, never stored here.
    users : int64 array, shape [M]
        Owner of each memory; -1 is nobody (a mined pattern).
    lengths : int64 array, shape [M]
        Items of the prefix, before any window cut it: the target's position in its sequence.
    times : float64 array, shape [M]
        When the target happened; NaN if unknown.
    index : Index
        Over the keys; its ids are rows of the arrays.
    """

    keys: NDArray[np.float32]
    values: IntArray
    users: IntArray
    lengths: IntArray
    times: NDArray[np.float64]
    index: Index

    @classmethod
    def build(
        cls,
        keys: NDArray[np.floating[Any]],
        values: NDArray[np.integer[Any]],
        users: NDArray[np.integer[Any]],
        lengths: NDArray[np.integer[Any]],
        times: NDArray[np.floating[Any]],
        *,
        index_kind: str,
        nlist: int = 0,
        nprobe: int = 0,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> MemoryBank:
        """Index a set of memories.

        Parameters
        ----------
        keys, values, users, lengths, times
            See the class.
        index_kind, nlist, nprobe, seed, device
            See :func:`recbole_ra.retrieval.index.make_index`.

        Raises
        ------
        DataError
            If there are no memories or a key is not finite.
        SettingsError
            If the index cannot be made as asked.
        ValueError
            If the arrays do not fit each other.
        """
        arrays = _as_arrays(keys, values, users, lengths, times)
        if not len(arrays["values"]):
            raise DataError(
                "the memory bank would be empty; lower min_support or use memory_source=enumerate"
            )
        width = arrays["keys"].shape[1]
        index = make_index(index_kind, width, nlist=nlist, nprobe=nprobe, seed=seed, device=device)
        index.add(arrays["keys"])
        return cls(**arrays, index=index)

    def __len__(self) -> int:
        return len(self.values)

    def add(
        self,
        keys: NDArray[np.floating[Any]],
        values: NDArray[np.integer[Any]],
        users: NDArray[np.integer[Any]],
        lengths: NDArray[np.integer[Any]],
        times: NDArray[np.floating[Any]],
    ) -> None:
        """Append memories; nothing is trained again (a *dynamic* memory)."""
        new = _as_arrays(keys, values, users, lengths, times)
        self.index.add(new["keys"])
        for name, rows in new.items():
            setattr(self, name, np.concatenate([getattr(self, name), rows]))

    def save(self, directory: Path) -> None:
        """Write the bank as a directory, whole or not at all.

        The files are written next to ``directory`` and moved there when complete; an earlier bank
        of that name is replaced only then.

        Raises
        ------
        CheckpointError
            If the directory holds something that is not a memory bank.
        """
        directory = Path(directory)
        replaceable = (directory / _MANIFEST).is_file() or (
            directory.is_dir() and not any(directory.iterdir())
        )
        if directory.exists() and not replaceable:
            raise CheckpointError(f"{directory}: exists and is not a memory bank; choose another directory")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as scratch:
            new, old = Path(scratch) / "new", Path(scratch) / "old"
            new.mkdir()
            self._write(new)
            try:
                if directory.exists():
                    directory.rename(old)
                new.rename(directory)
            except BaseException:
                # Also on an interrupt: what stays in the scratch directory is deleted with it.
                if old.exists() and not directory.exists():
                    old.rename(directory)
                raise

    def _write(self, directory: Path) -> None:
        for name in _DTYPES:
            np.save(directory / f"{name}.npy", getattr(self, name), allow_pickle=False)
        self.index.save(directory / _INDEX)
        manifest = {
            "format": _FORMAT,
            "version": VERSION,
            "count": len(self),
            "dimension": self.keys.shape[1],
            "index_kind": self.index.kind,
            "files": {name: _sha256(directory / name) for name in _file_names()},
        }
        (directory / _MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, directory: Path, device: torch.device | str = "cpu") -> MemoryBank:
        """Read a saved bank, verifying every file against the manifest first.

        Raises
        ------
        CheckpointError
            If a file is missing, truncated, changed or of another version; the message names it.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory / _MANIFEST)
        for name in _file_names():
            path = directory / name
            if not path.is_file():
                raise CheckpointError(f"{path}: is missing; build the memory bank again")
            if _sha256(path) != manifest["files"].get(name):
                raise CheckpointError(f"{path}: was truncated or changed; build the memory bank again")
        count, width = manifest["count"], manifest["dimension"]
        arrays = {}
        for name, dtype in _DTYPES.items():
            shape = (count, width) if name == "keys" else (count,)
            arrays[name] = _read_array(directory / f"{name}.npy", dtype, shape)
        index = load_index(manifest["index_kind"], directory / _INDEX, device=device)
        if len(index) != count or index.dimension != width:
            raise CheckpointError(
                f"{directory / _INDEX}: holds {len(index)} vectors of width {index.dimension}, "
                f"the manifest says {count} of {width}; build the memory bank again"
            )
        return cls(**arrays, index=index)


def _as_arrays(*columns: NDArray[Any]) -> dict[str, Any]:
    arrays = {
        name: np.ascontiguousarray(column, dtype=dtype)
        for (name, dtype), column in zip(_DTYPES.items(), columns, strict=True)
    }
    rows = len(arrays["values"])
    for name, array in arrays.items():
        if array.ndim != (2 if name == "keys" else 1) or len(array) != rows:
            raise ValueError(f"{name} has shape {list(array.shape)}, expected {rows} rows")
    return arrays


def _file_names() -> list[str]:
    return [*(f"{name}.npy" for name in _DTYPES), _INDEX]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """Parse the manifest and check that it says what the loader relies on."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read; is this the directory of a memory bank?") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON; build the memory bank again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: does not describe a memory bank; choose another directory")
    if manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: has version {manifest.get('version')!r}, this program reads {VERSION}; "
            "build the memory bank again"
        )
    sane = (
        all(type(manifest.get(name)) is int and manifest[name] > 0 for name in ("count", "dimension"))
        and manifest.get("index_kind") in KINDS
        and isinstance(manifest.get("files"), dict)
    )
    if not sane:
        raise CheckpointError(f"{path}: lacks or garbles an entry; build the memory bank again")
    return manifest


def _read_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: is not a readable array; build the memory bank again") from error
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise CheckpointError(
            f"{path}: does not hold {dtype} of shape {list(shape)}; build the memory bank again"
        )
    return array
