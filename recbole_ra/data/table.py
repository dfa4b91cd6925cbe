"""Sequences as compressed sparse rows (CSR), and their (prefix, next item) rows as two integers each."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import CheckpointError
from recbole_ra.core.files import read_arrays, write_arrays

IntArray = NDArray[np.int64]

_SAVED = ("items", "offsets", "users", "origin", "n_items")


class Origin(IntEnum):
    """Where a sequence came from (METHOD 1.5)."""

    ORIGINAL = 0
    PATTERN = 1
    REGENERATED = 2


ORIGINS = tuple(origin.name.lower() for origin in Origin)
"""Names of the origins, as settings join them by ``+``."""


@dataclass(frozen=True, eq=False)
class SequenceTable:
    """Sequences of item ids in chronological order.

    Sequence ``s`` is ``items[offsets[s]:offsets[s + 1]]``. 12 bytes an interaction with times, 4
    without: 10 million interactions are 120 MB.

    Attributes
    ----------
    items : int32 array, shape [interactions]
        Item ids in ``1 .. n_items - 1``; 0 is padding and never occurs.
    offsets : int64 array, shape [sequences + 1]
        Start of each sequence; ``offsets[0] == 0`` and ``offsets[-1] == len(items)``.
    users : int64 array, shape [sequences]
        Owner of each sequence, -1 for an unowned one (a mined pattern).
    n_items : int
        Size of the item vocabulary, padding included.
    origin : uint8 array, shape [sequences]
        An :class:`Origin` for each sequence.
    times : float64 array, shape [interactions], optional
        When each interaction happened.
    """

    items: NDArray[np.int32]
    offsets: IntArray
    users: IntArray
    n_items: int
    origin: NDArray[np.uint8]
    times: NDArray[np.float64] | None = None

    @classmethod
    def from_arrays(
        cls,
        items: NDArray[np.integer],
        offsets: NDArray[np.integer],
        n_items: int,
        *,
        users: NDArray[np.integer] | None = None,
        origin: NDArray[np.integer] | Origin = Origin.ORIGINAL,
        times: NDArray[np.floating] | None = None,
    ) -> SequenceTable:
        """Build a table from arrays; sequence ``s`` belongs to user ``s`` if ``users`` is not given.

        Raises
        ------
        ValueError
            If the offsets do not cover the items or an item id lies outside ``1 .. n_items - 1``.
        """
        n_sequences = len(offsets) - 1
        if n_sequences < 0 or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to {len(items)}")
        if len(items) and (items.min() < 1 or items.max() >= n_items):
            raise ValueError(f"item ids must lie in 1..{n_items - 1}, got {items.min()}..{items.max()}")
        return cls(
            np.asarray(items, dtype=np.int32),
            np.asarray(offsets, dtype=np.int64),
            np.arange(n_sequences) if users is None else np.asarray(users, dtype=np.int64),
            n_items,
            np.broadcast_to(np.asarray(origin, dtype=np.uint8), n_sequences),
            None if times is None else np.asarray(times, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """Number of interactions of each sequence, shape [sequences]."""
        return np.diff(self.offsets)

    def head(self, lengths: NDArray[np.integer]) -> SequenceTable:
        """Cut each sequence ``s`` to its first ``lengths[s]`` interactions."""
        lengths = np.minimum(lengths, self.lengths)
        keep = places(self.offsets[:-1], lengths)
        times = None if self.times is None else self.times[keep]
        return dataclasses.replace(self, items=self.items[keep], offsets=offsets_of(lengths), times=times)

    def windows(self, max_length: int) -> SequenceTable:
        """Cut every longer sequence into consecutive pieces of nearly equal length, at most ``max_length``.

        No interaction is copied or lost; the pieces keep owner and origin of their sequence.
        """
        pieces = -(-self.lengths // max_length)
        sequence = np.repeat(np.arange(len(self)), pieces)
        number = places(np.zeros_like(pieces), pieces)
        starts = self.offsets[sequence] + number * self.lengths[sequence] // pieces[sequence]
        return dataclasses.replace(
            self,
            offsets=np.append(starts, self.offsets[-1]),
            users=self.users[sequence],
            origin=self.origin[sequence],
        )

    def is_from(self, origins: Iterable[str]) -> NDArray[np.bool_]:
        """Mark the sequences of some :data:`ORIGINS`, shape [sequences]."""
        return np.isin(self.origin, [ORIGINS.index(name) for name in origins])

    def save(self, path: Path) -> None:
        """Write everything but the times as ``.npz``."""
        write_arrays(path, **{name: np.asarray(getattr(self, name)) for name in _SAVED})

    @classmethod
    def load(cls, path: Path) -> SequenceTable:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is missing or damaged.
        """
        found = read_arrays(path, _SAVED)
        if found is None:
            raise CheckpointError(f"{path}: missing or damaged; delete it and run again")
        items, offsets, users, origin, n_items = found
        return cls.from_arrays(items, offsets, int(n_items), users=users, origin=origin)

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything the table holds; equal tables, equal text."""
        digest = hashlib.sha256(str(self.n_items).encode())
        for array in (self.items, self.offsets, self.users, self.origin, self.times):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Rows (prefix, target) over a table: row ``r`` predicts item ``position[r]`` of ``sequence[r]``.

    Attributes
    ----------
    table : SequenceTable
    sequence, position : int64 arrays, shape [rows]
        ``1 <= position < length of the sequence``: the prefix is what lies before ``position``.
    max_length : int
        Longest history kept; the prefix is the latest ``min(position, max_length)`` items.
    """

    table: SequenceTable
    sequence: IntArray
    position: IntArray
    max_length: int

    @classmethod
    def all_of(cls, table: SequenceTable, max_length: int) -> Prefixes:
        """Make every (prefix, next item) row of every sequence, in table order."""
        targets = np.maximum(table.lengths - 1, 0)
        sequence = np.repeat(np.arange(len(table)), targets)
        return cls(table, sequence, places(np.ones_like(targets), targets), max_length)

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, rows: IntArray | slice) -> Prefixes:
        return Prefixes(self.table, self.sequence[rows], self.position[rows], self.max_length)

    @property
    def flat_position(self) -> IntArray:
        """Index of each target in ``table.items``, shape [rows]."""
        return self.table.offsets[self.sequence] + self.position

    @property
    def lengths(self) -> IntArray:
        """Items kept of each prefix, shape [rows]."""
        return np.minimum(self.position, self.max_length)

    @property
    def targets(self) -> IntArray:
        """Item to predict, shape [rows]."""
        return self.table.items[self.flat_position].astype(np.int64)

    @property
    def users(self) -> IntArray:
        """Owner of each row, shape [rows]."""
        return self.table.users[self.sequence]

    def items(self, width: int | None = None) -> IntArray:
        """Return the prefixes themselves, right-padded with 0, shape [rows, width or longest]."""
        lengths = self.lengths
        return gather_windows(self.table.items, self.flat_position - lengths, lengths, width)


def split_origins(joined: str) -> tuple[str, ...]:
    """Read names of :data:`ORIGINS` that are joined by ``+``."""
    return tuple(joined.lower().split("+"))


def offsets_of(lengths: NDArray[np.integer]) -> IntArray:
    """Return where each of consecutive ranges of these lengths starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths)])


def places(start: IntArray, length: NDArray[np.integer]) -> IntArray:
    """List every index of the ranges ``start[i] .. start[i] + length[i]``, one range after another."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(int(length.sum()))


def gather_windows(
    flat: NDArray[Any], start: IntArray, length: IntArray, width: int | None = None
) -> NDArray[Any]:
    """Cut ``flat[start[i] : start[i] + length[i]]`` for every row at once, right-padded with 0.

    Returns
    -------
    array, shape [rows, width]
        As wide as the longest row if no width is given. Of the type of ``flat``; int64 for int32, as
        torch indexes with it.
    """
    width = int(length.max(initial=0)) if width is None else width
    columns = np.arange(width)
    inside = columns < length[:, None]
    index = np.where(inside, start[:, None] + columns, 0)
    cut = np.where(inside, flat[index], flat.dtype.type(0))
    return cut.astype(np.int64) if cut.dtype == np.int32 else cut
