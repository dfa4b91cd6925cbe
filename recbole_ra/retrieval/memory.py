"""The memory bank: (encoded prefix, item that followed) pairs and the index over them (METHOD 4)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_ra.core.errors import CheckpointError, DataError
from recbole_ra.core.files import read_arrays, whole_folder, write_arrays
from recbole_ra.data.table import IntArray
from recbole_ra.retrieval.index import Index

_DTYPES: dict[str, np.dtype[Any]] = {
    "keys": np.dtype(np.float32),
    "values": np.dtype(np.int64),
    "users": np.dtype(np.int64),
    "lengths": np.dtype(np.int64),
    "times": np.dtype(np.float64),
    "recent": np.dtype(np.int32),
}
_MATRICES = ("keys", "recent")
_ARRAYS = "memories.npz"  # and the kind and SHA-256 of the index
_INDEX = "index.bin"

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


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
        Owner of each memory; -1 for an unowned one (a mined pattern).
    lengths : int64 array, shape [M]
        Items of the prefix, before any window cut it: the target's position in its sequence.
    times : float64 array, shape [M]
        When the target happened; NaN if unknown.
    recent : int32 array, shape [M, R]
        Latest items of the prefix, the last one first; 0 = none.
    index : Index
        Over the keys; its ids are rows of the arrays.
    """

    keys: NDArray[np.float32]
    values: IntArray
    users: IntArray
    lengths: IntArray
    times: NDArray[np.float64]
    recent: NDArray[np.int32]
    index: Index
    _room: dict[str, NDArray[Any]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def build(
        cls,
        keys: Floats,
        values: Integers,
        users: Integers,
        lengths: Integers,
        times: Floats,
        recent: Integers,
        *,
        index_kind: str,
        nlist: int = 0,
        nprobe: int = 0,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> MemoryBank:
        """Index a set of memories; what the index takes, see :class:`recbole_ra.retrieval.index.Index`.

        Raises
        ------
        DataError
            If there are no memories or a key is not finite.
        SettingsError
            If the index cannot be made as asked.
        ValueError
            If the arrays do not fit each other.
        """
        arrays = _converted(
            keys=keys, values=values, users=users, lengths=lengths, times=times, recent=recent
        )
        if not len(values):
            raise DataError(
                "the memory bank would be empty; lower min_support or use memory_source=enumerate"
            )
        width = arrays["keys"].shape[1]
        index = Index(index_kind, width, nlist=nlist, nprobe=nprobe, seed=seed, device=device)
        index.add(arrays["keys"])
        return cls(**arrays, index=index)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """What is kept of each memory, by name: the arrays that :meth:`add` takes."""
        return {name: getattr(self, name) for name in _DTYPES}

    def copy(self) -> MemoryBank:
        """Return a bank of its own with the same memories; columns are shared until either grows."""
        return MemoryBank(**self.columns, index=self.index.copy())

    def add(
        self,
        keys: Floats,
        values: Integers,
        users: Integers,
        lengths: Integers,
        times: Floats,
        recent: Integers,
    ) -> None:
        """Append memories; nothing is trained again (a *dynamic* memory).

        Columns grow into room that is doubled when it is used up, so that one memory costs no copy of all.
        """
        new = _converted(keys=keys, values=values, users=users, lengths=lengths, times=times, recent=recent)
        self.index.add(new["keys"])
        for name, rows in new.items():
            before, room = getattr(self, name), self._room.get(name)
            size = len(before) + len(rows)
            if room is None or before.base is not room or size > len(room):
                room = np.empty((2 * size, *before.shape[1:]), before.dtype)
                room[: len(before)] = before
                self._room[name] = room
            room[len(before) : size] = rows
            setattr(self, name, room[:size])

    def remove_owner(self, user: int) -> int:
        """Erase the memories of a user; the others move up. Returns how many those were."""
        kept = self.users != user
        removed = len(self) - int(kept.sum())
        if removed:
            for name in _DTYPES:
                setattr(self, name, np.ascontiguousarray(getattr(self, name)[kept]))
            self._room.clear()  # which holds the erased ones
            self.index.replace(self.keys)
        return removed

    def save(self, folder: Path) -> None:
        """Write a folder that appears whole; replaces a bank, raises CheckpointError for anything else."""
        if folder.exists() and not (folder / _ARRAYS).is_file():
            raise CheckpointError(f"{folder}: exists and is not a memory bank; name another folder")
        with whole_folder(folder) as part:
            self.index.save(part / _INDEX)
            index = {"index_kind": np.array(self.index.kind), "index_digest": _digest(part / _INDEX)}
            write_arrays(part / _ARRAYS, **self.columns, **index)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> MemoryBank:
        """Read a saved bank; raises CheckpointError if a file is missing, damaged or of another bank."""
        remedy = "delete the artifact that holds it and run again"
        found = read_arrays(folder / _ARRAYS, [*_DTYPES, "index_kind", "index_digest"])
        if found is None:
            raise CheckpointError(f"{folder / _ARRAYS}: is missing or damaged; {remedy}")
        *columns, kind, digest = found
        arrays = dict(zip(_DTYPES, columns, strict=True))
        try:
            _check(arrays)
        except ValueError as error:
            raise CheckpointError(f"{folder / _ARRAYS}: {error}; {remedy}") from error
        path = folder / _INDEX
        if not path.is_file() or _digest(path) != digest:
            raise CheckpointError(f"{path}: is missing, damaged or of another bank; {remedy}")
        return cls(**arrays, index=Index.load(str(kind), arrays["keys"].shape[1], path, device=device))


def _converted(**columns: NDArray[Any]) -> dict[str, NDArray[Any]]:
    arrays = {name: np.ascontiguousarray(columns[name], dtype=dtype) for name, dtype in _DTYPES.items()}
    _check(arrays)
    return arrays


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError for the first array whose type or shape does not fit the others."""
    rows = arrays["values"].size
    for name, array in arrays.items():
        ndim = 2 if name in _MATRICES else 1
        if array.dtype != _DTYPES[name] or array.ndim != ndim or len(array) != rows:
            expected = f"{_DTYPES[name]} of {rows} rows"
            raise ValueError(f"{name} is {array.dtype} of shape {list(array.shape)}, expected {expected}")


def _digest(path: Path) -> NDArray[np.str_]:
    with path.open("rb") as file:
        return np.array(hashlib.file_digest(file, "sha256").hexdigest())
