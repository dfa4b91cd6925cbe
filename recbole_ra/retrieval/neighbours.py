"""The best eligible memories of each query: over-fetch, filter, keep the first K (METHOD 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import DataError, SettingsError
from recbole_ra.data.table import IntArray, Prefixes
from recbole_ra.retrieval.eligibility import check_scope, eligible
from recbole_ra.retrieval.index_base import FloatArray, normalise
from recbole_ra.retrieval.memory import MemoryBank

_MARGIN = 12
"""Hits fetched beyond K at first: a query's own prefix and a few of its own later ones."""

_EARLIEST = 2048
"""Scope "past": queries with at most so many earlier memories are compared with all of them."""

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

    @classmethod
    def none(cls, rows: int, k: int) -> Neighbours:
        """Rows without any neighbour, to be filled in."""
        return cls(
            np.zeros((rows, k), dtype=np.int64),
            np.zeros((rows, k), dtype=np.bool_),
            np.zeros((rows, k), dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.ids)


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
        return cls(
            prefixes.users,
            prefixes.position,
            None if times is None else times[prefixes.flat_position],
        )


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Queries with their states; times are NaN where they are unknown."""

    vectors: NDArray[np.floating[Any]]
    users: IntArray
    lengths: IntArray
    times: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, rows: IntArray) -> _Encoded:
        return _Encoded(self.vectors[rows], self.users[rows], self.lengths[rows], self.times[rows])

    def may_see(self, bank: MemoryBank, ids: IntArray, scope: str) -> NDArray[np.bool_]:
        """Eligibility of memories, shape [Q, n] or [1, n], -1 for none: [Q, n]."""
        return (ids >= 0) & eligible(
            query_users=self.users[:, None],
            query_lengths=self.lengths[:, None],
            query_times=self.times[:, None],
            memory_users=bank.users[ids],
            memory_lengths=bank.lengths[ids],
            memory_times=bank.times[ids],
            scope=scope,
        )


def check_enough(n_neighbors: int, n_memories: int, source: str = "") -> None:
    """Refuse to ask for more neighbours than there are memories.

    Raises
    ------
    SettingsError
    """
    if n_neighbors > n_memories:
        where = f" (memory_source={source})" if source else ""
        raise SettingsError(
            f"n_neighbors={n_neighbors} but the memory bank holds only {n_memories} memories{where}; "
            "lower n_neighbors"
        )


def find_neighbours(
    bank: MemoryBank,
    states: NDArray[np.floating[Any]],
    queries: Queries,
    *,
    k: int,
    scope: str,
    block: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Find the ``k`` most similar memories that each query may see.

    With an exact index these are the best of all eligible memories. With an approximate one a row
    can also stay short because the lists that the index visits hold no more.

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
    block : int
        Queries searched at once.
    progress : callable, optional
        Called after each block with the queries done and the queries in all.

    Returns
    -------
    Neighbours

    Raises
    ------
    SettingsError
        If ``k`` is below 1 or beyond the bank, or the scope is unknown.
    DataError
        If scope "past" is asked of queries without times.
    """
    check_scope(scope)
    if k < 1:
        raise SettingsError(f"n_neighbors={k} is too small; use at least 1")
    check_enough(k, len(bank))
    if queries.times is None and scope == "past":
        raise DataError(
            "memory_scope=past needs a time for every query and there is none; use memory_scope=any"
        )
    times = np.full(len(states), np.nan) if queries.times is None else queries.times
    asked = _Encoded(states, queries.users, queries.lengths, times)
    result = Neighbours.none(len(asked), k)
    done = 0
    for rows, earliest in _plan(bank, asked, scope, block):
        if earliest is None:
            _search(bank, asked, rows, result, scope)
        elif len(earliest):
            _compare(bank, asked, rows, earliest, result, scope)
        done += len(rows)
        if progress is not None:
            progress(done, len(asked))
    return result


def _plan(
    bank: MemoryBank, asked: _Encoded, scope: str, block: int
) -> Iterator[tuple[IntArray, IntArray | None]]:
    """Blocks of queries; with the memories to compare them with, or None to ask the index.

    In scope "past" an early query may see few or no memories. Over-fetching until those turn up
    would sort most of the bank for each of them, while comparing with those few is exact and quick.
    """
    searched = np.arange(len(asked))
    if scope == "past":
        by_time = np.argsort(bank.times, kind="stable")
        known = bank.times[by_time[: np.count_nonzero(~np.isnan(bank.times))]]
        n_earlier = np.searchsorted(known, asked.times, side="left")
        n_earlier[np.isnan(asked.times)] = 0
        early = np.flatnonzero(n_earlier <= _EARLIEST)
        early = early[np.argsort(n_earlier[early], kind="stable")]
        searched = np.flatnonzero(n_earlier > _EARLIEST)
        nobody = int(np.count_nonzero(n_earlier == 0))
        if nobody:
            yield early[:nobody], by_time[:0]
        for start in range(nobody, len(early), block):
            rows = early[start : start + block]
            yield rows, by_time[: n_earlier[rows].max()]
    for start in range(0, len(searched), block):
        yield searched[start : start + block], None


def _search(bank: MemoryBank, asked: _Encoded, rows: IntArray, result: Neighbours, scope: str) -> None:
    """Ask the index; rows left short though it gave all that was asked are asked for twice as much."""
    k = result.ids.shape[1]
    fetch = min(k + _MARGIN, len(bank))
    while len(rows):
        short = []
        size = max(1, _CELLS // fetch)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            queries = asked[part]
            scores, ids = bank.index.search(queries.vectors, fetch)
            enough = _keep(result, part, scores, ids, queries.may_see(bank, ids, scope))
            short.append(part[~enough & (ids[:, -1] >= 0)])
        if fetch == len(bank):
            return
        rows = np.concatenate(short)
        fetch = min(2 * fetch, len(bank))


def _compare(
    bank: MemoryBank, asked: _Encoded, rows: IntArray, memories: IntArray, result: Neighbours, scope: str
) -> None:
    """Compare the queries with each of a few memories, shape [n]."""
    keys = normalise(bank.keys[memories])
    for start in range(0, len(rows), max(1, _CELLS // len(memories))):
        part = rows[start : start + max(1, _CELLS // len(memories))]
        queries = asked[part]
        scores = normalise(queries.vectors) @ keys.T
        allowed = queries.may_see(bank, memories[None, :], scope)
        scores[~allowed] = -np.inf
        best = min(result.ids.shape[1], len(memories))
        chosen = np.argpartition(-scores, best - 1, axis=1)[:, :best]
        order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
        chosen = np.take_along_axis(chosen, order, axis=1)
        scores = np.take_along_axis(scores, chosen, axis=1)
        _keep(result, part, scores, memories[chosen], np.isfinite(scores))


def _keep(
    result: Neighbours, rows: IntArray, scores: FloatArray, ids: IntArray, allowed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Store each row's first K allowed hits; True for the rows that have K.

    Parameters
    ----------
    rows : int64 array, shape [q]
    scores, ids, allowed : arrays, shape [q, n]
        Hits of those rows, best first.
    """
    k = result.ids.shape[1]
    place = np.cumsum(allowed, axis=1) - 1
    row, column = np.nonzero(allowed & (place < k))
    target = rows[row], place[row, column]
    # What an earlier, smaller fetch left in these rows must not outlive it.
    result.ids[rows], result.scores[rows], result.valid[rows] = 0, 0.0, False
    result.ids[target] = ids[row, column]
    result.scores[target] = scores[row, column]
    result.valid[target] = True
    complete: NDArray[np.bool_] = allowed.sum(axis=1) >= k
    return complete
