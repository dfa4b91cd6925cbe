"""Frequent ordered sub-sequences inside a sliding window (METHOD 1.1).

Patterns grow one item at a time. An occurrence is kept as (first position, last position, code of the
pattern so far). A longer pattern can only be frequent where the shorter one that it starts with is, so
occurrences of rare patterns are dropped before they are extended. Every step is one sort over the
surviving occurrences.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import RecboleRaError
from recbole_ra.core.machine import available_memory
from recbole_ra.data.table import IntArray, Origin, SequenceTable, offsets_of, places

MAX_LENGTH = 5
"""Most items of a pattern; the fewest are 2."""

OCCURRENCE_BYTES = 64
"""Of one occurrence while patterns grow: eight numbers."""

CACHED = 1 << 16
"""Keys that are sorted at once: with their order and owners they fit a core's cache."""


@dataclass(frozen=True, eq=False)
class Patterns:
    """Mined patterns, shortest first, those of one length in lexicographic order of their items.

    Attributes
    ----------
    items : int32 array, shape [total length]
        Pattern ``p`` is ``items[offsets[p]:offsets[p + 1]]``.
    offsets : int64 array, shape [patterns + 1]
    support : int64 array, shape [patterns]
        Number of sequences that contain the pattern inside one window.
    """

    items: NDArray[np.int32]
    offsets: IntArray
    support: IntArray

    def __len__(self) -> int:
        return len(self.support)

    @property
    def lengths(self) -> IntArray:
        """Items of each pattern, shape [patterns]."""
        return np.diff(self.offsets)

    def to_table(self, n_items: int) -> SequenceTable:
        """Return the patterns as unowned sequences over a vocabulary of ``n_items``, padding included."""
        users = np.full(len(self), -1)
        return SequenceTable.from_arrays(
            self.items, self.offsets, n_items, users=users, origin=Origin.PATTERN
        )


def mine_patterns(table: SequenceTable, *, window: int = 5, min_support: int = 2) -> Patterns:
    """Find all ordered sub-sequences, gaps allowed, that recur inside a sliding window.

    An item that recurs in a sequence may recur in a pattern. The result equals, pattern by pattern and
    support by support, what ``seq2pat`` finds with ``max_span=window`` and ``min_frequency=min_support``.

    Parameters
    ----------
    table : SequenceTable
        Training sequences.
    window : int
        At least 2; first and last item of an occurrence lie within this many consecutive positions.
    min_support : int
        Fewest sequences that contain the pattern; a sequence counts once.

    Raises
    ------
    RecboleRaError
        If their occurrences do not fit into memory: with the window they grow as its fourth power.
    """
    end = np.repeat(table.offsets[1:], table.lengths)
    sequence = np.repeat(np.arange(len(table)), table.lengths)
    first = last = np.arange(len(table.items))
    code, keys, _ = _frequent(table.items.astype(np.int64), sequence, min_support)
    matrix = keys.astype(np.int32)[:, None]
    items, supports = [], []
    lengths = range(2, min(MAX_LENGTH, window) + 1)
    for _ in lengths:
        alive = code >= 0
        first, last, code = _extend(first[alive], last[alive], code[alive], end, window)
        # At most 2**32 patterns times 2**31 items: the pair of codes fits 64 bits.
        code, keys, support = _frequent(
            code * table.n_items + table.items[last], sequence[first], min_support
        )
        prefix, item = np.divmod(keys, table.n_items)
        matrix = np.concatenate([matrix[prefix], item[:, None].astype(np.int32)], axis=1)
        items.append(matrix.reshape(-1))
        supports.append(support)

    row_lengths = np.repeat(lengths, [len(support) for support in supports])
    offsets = offsets_of(row_lengths)
    return Patterns(np.concatenate(items), offsets, np.concatenate(supports))


def _extend(
    first: IntArray, last: IntArray, code: IntArray, end: IntArray, window: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Extend every occurrence by every later position of its window and sequence."""
    room = np.minimum(first + window, end[first]) - last - 1
    needed, available = int(room.sum()) * OCCURRENCE_BYTES, available_memory()
    if needed > available:
        raise RecboleRaError(
            f"window={window}: the {room.sum():,} occurrences of patterns within it take {needed / 1e9:.3g} "
            f"GB, but {available / 1e9:.3g} GB are available; lower window, or raise min_support"
        )
    return np.repeat(first, room), places(last + 1, room), np.repeat(code, room)


def _frequent(keys: IntArray, sequence: IntArray, min_support: int) -> tuple[IntArray, IntArray, IntArray]:
    """Number the keys that occur in enough sequences; ``sequence`` never falls.

    Gives the rank of each occurrence's key among the frequent ones, or -1; the frequent keys, ascending;
    and in how many sequences each of them occurs.
    """
    # A sort of what does not fit the cache waits for memory at every step. So first one pass that
    # parts the keys by value (16 bits: a radix sort), then each part for itself.
    n_parts = len(keys) // CACHED + 1
    part = np.minimum(keys * (n_parts / (keys.max(initial=0) + 1)), n_parts - 1).astype(np.uint16)
    by_part = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[by_part], np.arange(n_parts + 1))
    code = np.empty(len(keys), dtype=np.int64)
    frequent, supports, known = [], [], 0
    for start, stop in itertools.pairwise(bounds):
        # The stable sort keeps each key's occurrences in order of sequence: a change is a new one.
        inside = by_part[start:stop]
        inside = inside[np.argsort(keys[inside], kind="stable")]
        key, owner = keys[inside], sequence[inside]
        new_key = np.diff(key, prepend=-1) != 0
        new_owner = new_key | (np.diff(owner, prepend=-1) != 0)
        key_rank = np.cumsum(new_key) - 1
        support = np.bincount(key_rank[new_owner], minlength=int(new_key.sum()))
        keep = support >= min_support
        code[inside] = np.where(keep, known + np.cumsum(keep) - 1, -1)[key_rank]
        frequent.append(key[new_key][keep])
        supports.append(support[keep])
        known += len(frequent[-1])
    return code, np.concatenate(frequent), np.concatenate(supports)
