"""Pre-training pairs: which sequence contains which pattern, any gaps allowed (METHOD 1.2).

All sequences are walked at once through a trie of the patterns. A state is (sequence, trie node, earliest
position where the node's items have all been met), one column of an int64 array of shape [3, states]; the
earliest is enough, because what can follow a later position can follow an earlier one too. A step takes
every state to every later position of its sequence and looks the item up among the node's children.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.seeding import stream
from recbole_ra.data.table import IntArray, SequenceTable, places
from recbole_ra.regeneration.mining import Patterns

# Candidates that are looked up at once, some 60 bytes each: the search needs about 120 MB.
CANDIDATES = 2_000_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs (row of a table, row of the patterns), sorted; int64 arrays of shape [pairs]."""

    sequence: IntArray
    pattern: IntArray

    def __len__(self) -> int:
        return len(self.sequence)


def draw_pairs(table: SequenceTable, patterns: Patterns, *, per_sequence: int = 10, seed: int) -> Pairs:
    """Draw the pairs that the regenerator is pre-trained on.

    Parameters
    ----------
    table : SequenceTable
        Training sequences. Work grows with the squared length of a row.
    patterns : Patterns
        Any set without duplicates: the prefix of a pattern need not be one.
    per_sequence : int
        Most pairs of one sequence, at least 1; a sequence that contains fewer patterns keeps all of them.
    seed : int
        The draw, uniform without replacement, depends on the seed, the table and the patterns alone.
    """
    rng = stream(seed, "pairs")
    drawn = [np.zeros((2, 0), dtype=np.int64)]
    for sequence, pattern in _by_block(table, patterns):
        # The smallest of independent random numbers are a uniform draw. One number a pair, in the
        # order of pairs: the size of the blocks does not matter.
        order = np.lexsort((rng.random(len(sequence)), sequence))
        by_sequence = sequence[order]
        rank = np.arange(len(sequence)) - np.searchsorted(by_sequence, by_sequence)
        keep = np.sort(order[rank < per_sequence])
        drawn.append(np.stack([sequence[keep], pattern[keep]]))
    return Pairs(*np.concatenate(drawn, axis=1))


class _Trie:
    """All prefixes of the patterns; node 0 is the empty one.

    Nodes are numbered by length, then parent, then item, so that the keys ``parent * width + item`` of
    all of them rise and the child of the key of rank ``r`` is node ``r + 1``. ``pattern[node]`` is the
    pattern that ends in the node, or -1.
    """

    def __init__(self, patterns: Patterns, n_items: int) -> None:
        lengths = patterns.lengths
        self.width = max(n_items, int(patterns.items.max(initial=0)) + 1)
        self.keys = np.zeros(0, dtype=np.int64)
        node = np.zeros(len(patterns), dtype=np.int64)
        for depth in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > depth)
            item = patterns.items[patterns.offsets[longer] + depth]
            level, rank = np.unique(node[longer] * self.width + item, return_inverse=True)
            node[longer] = len(self.keys) + rank + 1
            self.keys = np.concatenate([self.keys, level])
        self.pattern = np.full(len(self.keys) + 1, -1)
        self.pattern[node] = np.arange(len(patterns))
        self.has_children = np.zeros(len(self.keys) + 1, dtype=np.bool_)
        self.has_children[self.keys // self.width] = True

    def child(self, node: IntArray, item: NDArray[np.int32]) -> IntArray:
        """Node below ``node`` along ``item``, -1 where there is none; for a trie that is not empty."""
        key = node * self.width + item
        rank = np.searchsorted(self.keys, key)
        found = self.keys[np.minimum(rank, len(self.keys) - 1)] == key
        return np.where(found, rank + 1, -1)


def _by_block(table: SequenceTable, patterns: Patterns) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield every (sequence, pattern) once, sorted, in blocks of sequences of bounded memory."""
    trie = _Trie(patterns, table.n_items)
    previous = _previous_occurrence(table)
    for block in _runs(table.lengths**2 // 2):
        sequence = np.arange(block.start, block.stop)
        states = np.stack([sequence, np.zeros_like(sequence), table.offsets[sequence] - 1])
        keys = [np.zeros(0, dtype=np.int64)]
        while (states := states[:, trie.has_children[states[1]]]).size:
            room = table.offsets[states[0] + 1] - states[2] - 1
            parts = [_step(states[:, run], room[run], table, trie, previous) for run in _runs(room)]
            states = np.concatenate(parts, axis=1)
            pattern = trie.pattern[states[1]]
            ends = pattern >= 0
            keys.append(states[0, ends] * len(patterns) + pattern[ends])
        yield np.divmod(np.sort(np.concatenate(keys)), max(len(patterns), 1))


def _step(
    states: IntArray, room: IntArray, table: SequenceTable, trie: _Trie, previous: IntArray
) -> IntArray:
    """Go from every state to the children that it meets at later positions, each at its earliest."""
    parent = np.repeat(np.arange(len(room)), room)
    position = places(states[2] + 1, room)
    # Where the item has occurred since the state's position, the state has met this child before.
    earliest = previous[position] <= states[2, parent]
    parent, position = parent[earliest], position[earliest]
    node = trie.child(states[1, parent], table.items[position])
    there = node >= 0
    return np.stack([states[0, parent[there]], node[there], position[there]])


def _previous_occurrence(table: SequenceTable) -> IntArray:
    """Position of the same item before, in the same sequence, or -1; shape [interactions]."""
    key = np.repeat(np.arange(len(table)), table.lengths) * table.n_items + table.items
    order = np.argsort(key, kind="stable")
    again = np.diff(key[order]) == 0
    previous = np.full(len(key), -1)
    previous[order[1:][again]] = order[:-1][again]
    return previous


def _runs(cost: IntArray) -> Iterator[slice]:
    """Cut rows into consecutive runs; each costs less than ``CANDIDATES`` and one row more."""
    number = (np.cumsum(cost) - cost) // CANDIDATES
    bounds = np.flatnonzero(np.diff(number, prepend=-1, append=-1))
    return (slice(int(a), int(b)) for a, b in pairwise(bounds))
