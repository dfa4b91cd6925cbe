"""The best eligible memories of each query: over-fetch, filter, keep the first K (METHOD 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import DataError
from recbole_ra.data.table import IntArray, Prefixes
from recbole_ra.retrieval.eligibility import eligible
from recbole_ra.retrieval.index import FloatArray, normalise
from recbole_ra.retrieval.memory import MemoryBank

_MARGIN = 12
"""Hits fetched beyond K at first: a query's own prefix and a few of its own later ones."""

_EARLIEST = 2048
"""Scope "past": queries with at most so many earlier memories are compared with all of them."""

_BLOCK = 8192
"""Queries searched at once."""

_CELLS = 1 << 24
"""Most (query, hit) cells held at once, whatever a row has to fetch."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The memories of each query, best first. ``Q`` queries, ``K`` places.

    Attributes
    ----------
    ids : int64 array, shape [Q, K]
        Rows of the memory bank; 0 where ``valid`` is False.
    valid : bool array, shape [Q, K]
        Valid places come first in every row.
    scores : float32 array, shape [Q, K]
        Cosines; 0 where ``valid`` is False.
    """

    ids: IntArray
    valid: NDArray[np.bool_]
    scores: FloatArray


@dataclass(frozen=True, eq=False)
class Queries:
    """What eligibility asks about queries (METHOD 4).

    Attributes
    ----------
    users : int64 array, shape [Q]
        Owner of each query, -1 for none.
    lengths : int64 array, shape [Q]
        Items of its prefix, before any window cut it.
    times : float64 array, shape [Q], optional
        When its target happens, NaN where that is unknown; only scope "past" needs it.
    """

    users: IntArray
    lengths: IntArray
    times: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, prefixes: Prefixes) -> Queries:
        """Queries for the targets of (prefix, next item) rows."""
        times = prefixes.table.times
        known = None if times is None else times[prefixes.flat_position]
        return cls(prefixes.users, prefixes.position, known)


def find_neighbours(
    bank: MemoryBank, states: NDArray[np.floating[Any]], queries: Queries, *, k: int, scope: str
) -> Neighbours:
    """Find the ``k`` most similar memories that each query may see.

    With an exact index these are the best of all eligible memories; where there are fewer, a row stays
    short. With an approximate one also because the lists that the index visits hold no more.

    Parameters
    ----------
    bank : MemoryBank
    states : float array, shape [Q, D]
        Of the queries, not normalised.
    queries : Queries
    k : int
        Neighbours a query (``n_neighbors``).
    scope : {"any", "past"}
        See :func:`recbole_ra.retrieval.eligibility.eligible`.

    Raises
    ------
    SettingsError
        If the scope is unknown.
    DataError
        If scope "past" is asked of queries without times.
    """
    search = _Search.of(bank, states, queries, k, scope)
    search.run()
    return search.found


def random_neighbours(
    bank: MemoryBank, states: NDArray[np.floating[Any]], queries: Queries, *, k: int, scope: str
) -> Neighbours:
    """Pick ``k`` memories that have nothing to do with the state; all else as in :func:`find_neighbours`.

    Which ones follows from the query's owner and length alone, so that a query has the same in each pass.
    """
    if not len(bank):
        return find_neighbours(bank, states, queries, k=k, scope=scope)
    mixed = queries.users[:, None] * 2_654_435_761 + queries.lengths[:, None] * 40_503 + np.arange(k) * 97
    ids = (mixed % 2_147_483_647 * 48_271 % 2_147_483_647) % len(bank)
    search = _Search.of(bank, states, queries, k, scope)
    rows = np.arange(len(states))
    search.keep(rows, np.zeros(ids.shape, np.float32), ids, search.may_see(rows, ids))
    return search.found


@dataclass(frozen=True, eq=False)
class _Search:
    """One search: which queries ask what of which bank, and what was found for them so far."""

    bank: MemoryBank
    states: NDArray[np.floating[Any]]
    users: IntArray
    lengths: IntArray
    times: NDArray[np.float64]
    scope: str
    found: Neighbours

    @classmethod
    def of(
        cls, bank: MemoryBank, states: NDArray[np.floating[Any]], queries: Queries, k: int, scope: str
    ) -> _Search:
        """Begin a search; parameters and errors as in :func:`find_neighbours`."""
        times = queries.times
        if times is None:
            if scope == "past":
                raise DataError(
                    "memory_scope=past needs a time for every query and there is none; use memory_scope=any"
                )
            times = np.full(len(states), np.nan)
        shape = len(states), k
        found = Neighbours(np.zeros(shape, np.int64), np.zeros(shape, np.bool_), np.zeros(shape, np.float32))
        return cls(bank, states, queries.users, queries.lengths, times, scope, found)

    def run(self) -> None:
        """Find the neighbours of all queries, block by block.

        In scope "past" an early query may see few or no memories. Over-fetching until those turn up
        would sort most of the bank for each of them, while comparing with those few is exact and quick.
        """
        if not len(self.bank):
            return
        rows = np.arange(len(self.states))
        if self.scope == "past":
            times = self.bank.times
            by_time = np.argsort(times, kind="stable")
            known = times[by_time[: np.count_nonzero(~np.isnan(times))]]
            n_earlier = np.searchsorted(known, self.times, side="left")
            n_earlier[np.isnan(self.times)] = 0
            early = np.flatnonzero((n_earlier > 0) & (n_earlier <= _EARLIEST))
            early = early[np.argsort(n_earlier[early], kind="stable")]
            for block in _blocks(early, _BLOCK):
                self.compare(block, by_time[: n_earlier[block].max()])
            rows = np.flatnonzero(n_earlier > _EARLIEST)
        for block in _blocks(rows, _BLOCK):
            self.ask_index(block)

    def ask_index(self, rows: IntArray) -> None:
        """Over-fetch; for rows left short though the index had as many hits as asked, fetch twice as many."""
        size = len(self.bank)
        fetch = min(self.found.ids.shape[1] + _MARGIN, size)
        while len(rows):
            short = []
            for part in _blocks(rows, max(1, _CELLS // fetch)):
                scores, ids = self.bank.index.search(self.states[part], fetch)
                enough = self.keep(part, scores, ids, (ids >= 0) & self.may_see(part, ids))
                short.append(part[~enough & (ids[:, -1] >= 0)])
            if fetch == size:
                return
            rows = np.concatenate(short)
            fetch = min(2 * fetch, size)

    def compare(self, rows: IntArray, memories: IntArray) -> None:
        """Compare the queries with each of a few memories, shape [n]."""
        keys = normalise(self.bank.keys[memories])
        best = min(self.found.ids.shape[1], len(memories))
        for part in _blocks(rows, max(1, _CELLS // len(memories))):
            scores = normalise(self.states[part]) @ keys.T
            scores[~self.may_see(part, memories[None, :])] = -np.inf
            chosen = np.argpartition(-scores, best - 1, axis=1)[:, :best]
            order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
            chosen = np.take_along_axis(chosen, order, axis=1)
            scores = np.take_along_axis(scores, chosen, axis=1)
            self.keep(part, scores, memories[chosen], np.isfinite(scores))

    def may_see(self, rows: IntArray, ids: IntArray) -> NDArray[np.bool_]:
        """Eligibility of memories, shape [q, n] or [1, n], for queries, shape [q]: [q, n]."""
        return eligible(
            query_users=self.users[rows, None],
            query_lengths=self.lengths[rows, None],
            query_times=self.times[rows, None],
            memory_users=self.bank.users[ids],
            memory_lengths=self.bank.lengths[ids],
            memory_times=self.bank.times[ids],
            scope=self.scope,
        )

    def keep(
        self, rows: IntArray, scores: FloatArray, ids: IntArray, allowed: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Store each row's first K allowed hits of [q, n], best first; return which rows have K."""
        found, k = self.found, self.found.ids.shape[1]
        place = np.cumsum(allowed, axis=1) - 1
        row, column = np.nonzero(allowed & (place < k))
        target = rows[row], place[row, column]
        # What an earlier, smaller fetch left in these rows must not outlive it.
        found.ids[rows], found.scores[rows], found.valid[rows] = 0, 0.0, False
        found.ids[target] = ids[row, column]
        found.scores[target] = scores[row, column]
        found.valid[target] = True
        complete: NDArray[np.bool_] = allowed.sum(axis=1) >= k
        return complete


def _blocks(rows: IntArray, size: int) -> Iterator[IntArray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
