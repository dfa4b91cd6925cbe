"""Frequent ordered sub-sequences inside a sliding window (METHOD 1.1).

Patterns are grown one item at a time. An occurrence is kept as (first position, last position,
code of the pattern so far); a longer pattern can only be frequent where the shorter one that it
starts with is, so occurrences of rare patterns are dropped before they are extended. Every step
is one sort over the surviving occurrences.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import SettingsError
from recbole_ra.data.table import IntArray, Origin, SequenceTable

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
        """Return the patterns as sequences that nobody owns.

        Parameters
        ----------
        n_items : int
            Size of the item vocabulary, padding included.
        """
        users = np.full(len(self), -1, dtype=np.int64)
        return SequenceTable.from_arrays(
            self.items, self.offsets, n_items, users=users, origin=Origin.PATTERN
        )


def mine_patterns(
    table: SequenceTable, *, window: int = 5, min_support: int = 2, max_length: int = 5
) -> Patterns:
    """Find all ordered sub-sequences, gaps allowed, that recur inside a sliding window.

    Parameters
    ----------
    table : SequenceTable
        Training sequences.
    window : int
        First and last item of an occurrence lie within this many consecutive positions.
    min_support : int
        Fewest sequences that contain the pattern; a sequence counts once.
    max_length : int
        Longest pattern, in items; patterns have at least 2.

    Returns
    -------
    Patterns
        Equal, pattern by pattern and support by support, to what ``seq2pat`` finds with
        ``max_span=window`` and ``min_frequency=min_support``. An item that recurs in a sequence
        may recur in a pattern.

    Raises
    ------
    SettingsError
        If a setting is out of range.
    """
    lowest = {"window": (window, 2), "min_support": (min_support, 1), "max_length": (max_length, 2)}
    for name, (value, least) in lowest.items():
        if value < least:
            raise SettingsError(f"{name}={value} is too small for mining; use at least {least}")

    items = table.items
    end = np.repeat(table.offsets[1:], table.lengths)
    sequence = np.repeat(np.arange(len(table)), table.lengths)

    first = last = np.arange(len(items))
    code, keys, _ = _frequent(items.astype(np.int64), sequence, min_support)
    matrix = keys.astype(np.int32)[:, None]
    found, supports = [], []
    while matrix.shape[1] < min(max_length, window):
        alive = code >= 0
        first, last, code = _extend(first[alive], last[alive], code[alive], end, window)
        # At most 2**32 patterns times 2**31 items: the pair of codes fits 64 bits.
        pair = code * table.n_items + items[last]
        code, keys, support = _frequent(pair, sequence[first], min_support)
        prefix, item = np.divmod(keys, table.n_items)
        matrix = np.concatenate([matrix[prefix], item[:, None].astype(np.int32)], axis=1)
        found.append(matrix)
        supports.append(support)

    lengths = np.concatenate([np.full(len(m), m.shape[1]) for m in found])
    return Patterns(
        items=np.concatenate([m.reshape(-1) for m in found]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        support=np.concatenate(supports),
    )


def _extend(
    first: IntArray, last: IntArray, code: IntArray, end: IntArray, window: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Every occurrence with every later position of its window and sequence as the new last one."""
    room = np.minimum(first + window, end[first]) - last - 1
    parent = np.repeat(np.arange(len(first)), room)
    before = np.cumsum(room) - room
    step = np.arange(len(parent)) - before[parent] + 1
    return first[parent], last[parent] + step, code[parent]


def _frequent(keys: IntArray, sequence: IntArray, min_support: int) -> tuple[IntArray, IntArray, IntArray]:
    """Number the keys that occur in enough sequences.

    Parameters
    ----------
    keys, sequence : int64 arrays, shape [occurrences]
        ``sequence`` never falls.

    Returns
    -------
    code : int64 array, shape [occurrences]
        Rank of the occurrence's key among the frequent ones, -1 if it is not frequent.
    frequent : int64 array, shape [frequent keys]
        Ascending.
    support : int64 array, shape [frequent keys]
    """
    if len(keys) <= CACHED:
        return _frequent_in_cache(keys, sequence, min_support)
    # A sort of what does not fit the cache waits for memory at every step. So first one pass that
    # parts the keys by value (16 bits: a radix sort), then each part for itself.
    n_parts = -(-len(keys) // CACHED)
    part = np.minimum(keys * (n_parts / (keys.max() + 1)), n_parts - 1).astype(np.uint16)
    order = np.argsort(part, kind="stable")
    bounds = np.searchsorted(part[order], np.arange(n_parts + 1))
    code = np.empty(len(keys), dtype=np.int64)
    frequent, supports, known = [], [], 0
    for first, last in itertools.pairwise(bounds):
        inside = order[first:last]
        number, found, support = _frequent_in_cache(keys[inside], sequence[inside], min_support)
        code[inside] = np.where(number < 0, -1, number + known)
        known += len(found)
        frequent.append(found)
        supports.append(support)
    return code, np.concatenate(frequent), np.concatenate(supports)


def _frequent_in_cache(
    keys: IntArray, sequence: IntArray, min_support: int
) -> tuple[IntArray, IntArray, IntArray]:
    """:func:`_frequent` by one sort."""
    order = np.argsort(keys, kind="stable")
    by_key, owner = keys[order], sequence[order]
    new_key = np.concatenate([[True], by_key[1:] != by_key[:-1]])[: len(keys)]
    # The stable sort keeps each key's occurrences in order of sequence: a change is a new one.
    new_owner = new_key | np.concatenate([[True], owner[1:] != owner[:-1]])[: len(keys)]
    key_rank = np.cumsum(new_key) - 1
    support = np.bincount(key_rank[new_owner], minlength=int(new_key.sum()))
    keep = support >= min_support
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    code = np.empty(len(keys), dtype=np.int64)
    code[order] = number[key_rank]
    return code, by_key[new_key][keep], support[keep]
