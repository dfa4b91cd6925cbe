"""(prefix, next item) rows as two integers each, never as padded histories."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_ra.data.table import IntArray, SequenceTable, gather_windows, places


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
        """Every (prefix, next item) row of every sequence, in table order."""
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
        """The prefixes themselves, right-padded with 0, shape [rows, width or longest]."""
        lengths = self.lengths
        return gather_windows(self.table.items, self.flat_position - lengths, lengths, width)
