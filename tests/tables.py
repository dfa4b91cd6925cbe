"""Tables of sequences from lists, and lists from what has items and offsets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_ra.data.table import SequenceTable


def flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Items of all rows, and where each row begins, with the end of the last."""
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return items, np.cumsum([0, *map(len, rows)])


def table_of(
    rows: Sequence[Sequence[int]], n_items: int | None = None, *, users: Any = None, **columns: Any
) -> SequenceTable:
    """A table of rows; the catalogue ends at the largest item where ``n_items`` is not given."""
    items, offsets = flat(rows)
    if users is not None:
        users = np.array(users, dtype=np.int64)
    size = int(items.max(initial=0)) + 1 if n_items is None else n_items
    return SequenceTable.from_arrays(items, offsets, size, users=users, **columns)


def lists_of(found: Any) -> list[list[int]]:
    """The rows of a table, or of anything else with items and offsets."""
    return [found.items[a:b].tolist() for a, b in itertools.pairwise(found.offsets)]
