"""Pre-training pairs: which sequence contains which pattern, any gaps allowed (METHOD 1.2).

All sequences are walked at once through a trie of the patterns. A state is (sequence, trie node,
earliest position where the node's items have all been met); the earliest is enough, because what
can follow a later position can follow an earlier one too. A step takes every state to every later
position of its sequence and looks the item up among the node's children.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import SettingsError
from recbole_ra.core.seeding import stream
from recbole_ra.data.table import IntArray, SequenceTable
from recbole_ra.regeneration.mining import Patterns

# Candidates that are looked up at once, some 60 bytes each: the search needs about 120 MB.
CANDIDATES = 2_000_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs (sequence, pattern), sorted by sequence, then by pattern.

    Attributes
    ----------
    sequence : int64 array, shape [pairs]
        Row of the table.
    pattern : int64 array, shape [pairs]
        Row of the patterns.
    """

    sequence: IntArray
    pattern: IntArray

    def __len__(self) -> int:
        return len(self.sequence)


def contained_patterns(table: SequenceTable, patterns: Patterns) -> Pairs:
    """Find every pattern that is an ordered sub-sequence of a sequence, whatever the gaps.

    Parameters
    ----------
    table : SequenceTable
        Work grows with the squared length of a row.
    patterns : Patterns
        Any set without duplicates: the prefix of a pattern need not be one.

    Returns
    -------
    Pairs
        Each pair once, however often the pattern occurs in the sequence.
    """
    return _join(list(_by_block(table, patterns)))


def draw_pairs(table: SequenceTable, patterns: Patterns, *, per_sequence: int = 10, seed: int) -> Pairs:
    """Draw the pairs that the regenerator is pre-trained on.

    Parameters
    ----------
    table : SequenceTable
        Training sequences.
    patterns : Patterns
        Mined from them.
    per_sequence : int
        Most pairs of one sequence; a sequence that contains fewer patterns keeps all of them.
    seed : int
        The draw, uniform without replacement, depends on the seed, the table and the patterns alone.

    Returns
    -------
    Pairs

    Raises
    ------
    SettingsError
        If ``per_sequence`` is below 1.
    """
    if per_sequence < 1:
        raise SettingsError(
            f"pairs_per_sequence={per_sequence} leaves nothing to train the regenerator on; use at least 1"
        )
    rng = stream(seed, "pairs")
    drawn = []
    for pairs in _by_block(table, patterns):
        # The smallest of independent random numbers are a uniform draw. One number a pair, in the
        # order of pairs: the size of the blocks does not matter.
        order = np.lexsort((rng.random(len(pairs)), pairs.sequence))
        by_sequence = pairs.sequence[order]
        rank = np.arange(len(pairs)) - np.searchsorted(by_sequence, by_sequence)
        keep = np.sort(order[rank < per_sequence])
        drawn.append(Pairs(pairs.sequence[keep], pairs.pattern[keep]))
    return _join(drawn)


def _join(parts: list[Pairs]) -> Pairs:
    none = np.zeros(0, dtype=np.int64)
    return Pairs(
        sequence=np.concatenate([none, *(part.sequence for part in parts)]),
        pattern=np.concatenate([none, *(part.pattern for part in parts)]),
    )


@dataclass(frozen=True, eq=False)
class _Trie:
    """All prefixes of the patterns; node 0 is the empty one.

    Nodes are numbered by length, then parent, then item, so that the keys of all of them rise and
    the child of the key of rank ``r`` is node ``r + 1``.

    Attributes
    ----------
    keys : int64 array, shape [nodes - 1]
        ``parent * width + item``, ascending.
    width : int
        Above every item id.
    pattern : int64 array, shape [nodes]
        The pattern that ends in the node, or -1.
    has_children : bool array, shape [nodes]
    """

    keys: IntArray
    width: int
    pattern: IntArray
    has_children: NDArray[np.bool_]

    @classmethod
    def of(cls, patterns: Patterns, n_items: int) -> _Trie:
        width = max(n_items, int(patterns.items.max(initial=0)) + 1)
        node = np.zeros(len(patterns), dtype=np.int64)
        keys = np.zeros(0, dtype=np.int64)
        for depth in range(int(patterns.lengths.max(initial=0))):
            longer = np.flatnonzero(patterns.lengths > depth)
            item = patterns.items[patterns.offsets[longer] + depth]
            level, rank = np.unique(node[longer] * width + item, return_inverse=True)
            node[longer] = len(keys) + rank + 1
            keys = np.concatenate([keys, level])
        pattern = np.full(len(keys) + 1, -1, dtype=np.int64)
        pattern[node] = np.arange(len(patterns))
        has_children = np.zeros(len(keys) + 1, dtype=np.bool_)
        has_children[keys // width] = True
        return cls(keys, width, pattern, has_children)

    def child(self, node: IntArray, item: NDArray[np.integer]) -> IntArray:
        """Node below ``node`` along ``item``, -1 where there is none; for a trie that is not empty."""
        key = node * self.width + item
        rank = np.searchsorted(self.keys, key)
        found = self.keys[np.minimum(rank, len(self.keys) - 1)] == key
        return np.where(found, rank + 1, -1)


@dataclass(frozen=True, eq=False)
class _States:
    """Where the search is: int64 arrays, shape [states], in order of sequence."""

    sequence: IntArray
    node: IntArray
    position: IntArray

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> _States:
        return _States(self.sequence[rows], self.node[rows], self.position[rows])


def _by_block(table: SequenceTable, patterns: Patterns) -> Iterator[Pairs]:
    """Pairs of one block of sequences after another; a block's memory is bounded."""
    trie = _Trie.of(patterns, table.n_items)
    previous = _previous_occurrence(table)
    for block in _runs(table.lengths**2 // 2, CANDIDATES):
        sequence = np.arange(block.start, block.stop)
        states = _States(sequence, np.zeros_like(sequence), table.offsets[sequence] - 1)
        keys = [np.zeros(0, dtype=np.int64)]
        while len((states := states[trie.has_children[states.node]]).node):
            room = table.offsets[states.sequence + 1] - states.position - 1
            parts = [
                _extend(states[run], room[run], table, trie, previous) for run in _runs(room, CANDIDATES)
            ]
            states = _States(
                sequence=np.concatenate([part.sequence for part in parts]),
                node=np.concatenate([part.node for part in parts]),
                position=np.concatenate([part.position for part in parts]),
            )
            pattern = trie.pattern[states.node]
            ends = pattern >= 0
            keys.append(states.sequence[ends] * len(patterns) + pattern[ends])
        yield Pairs(*np.divmod(np.sort(np.concatenate(keys)), max(len(patterns), 1)))


def _extend(
    states: _States, room: IntArray, table: SequenceTable, trie: _Trie, previous: IntArray
) -> _States:
    """Go from every state to the children that it meets at later positions, each at its earliest."""
    parent = np.repeat(np.arange(len(room)), room)
    before = np.cumsum(room) - room
    position = states.position[parent] + np.arange(len(parent)) - before[parent] + 1
    # Where the item has occurred since the state's position, the state has met this child before.
    earliest = previous[position] <= states.position[parent]
    parent, position = parent[earliest], position[earliest]
    node = trie.child(states.node[parent], table.items[position])
    return _States(states.sequence[parent], node, position)[node >= 0]


def _previous_occurrence(table: SequenceTable) -> IntArray:
    """Position of the same item before, in the same sequence, or -1; shape [interactions]."""
    sequence = np.repeat(np.arange(len(table)), table.lengths)
    key = sequence * table.n_items + table.items
    order = np.argsort(key, kind="stable")
    again = key[order[1:]] == key[order[:-1]]
    previous = np.full(len(key), -1, dtype=np.int64)
    previous[order[1:][again]] = order[:-1][again]
    return previous


def _runs(cost: IntArray, most: int) -> Iterator[slice]:
    """Cut rows into consecutive runs; each costs less than ``most`` and one row more."""
    number = (np.cumsum(cost) - cost) // most
    bounds = np.flatnonzero(np.diff(number, prepend=-1, append=-1))
    return (slice(int(a), int(b)) for a, b in pairwise(bounds))
