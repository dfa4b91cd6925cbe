"""What followed what: all memories at once, as weighted transitions between items.

A memory votes for the item that followed it with the similarity of its history to the query's, where a
history is the vector of its items, the late ones heavier (V-SKNN: Ludewig & Jannach, UMUAI 2018). With all
memories as neighbours the votes are a product with one sparse matrix: ``q^T (K^T T)``, ``K`` the histories of
the memories and ``T`` what followed. No encoder takes part, so the votes know what the backbone forgot.

Shapes: ``M`` memories, ``R`` latest items kept of each, ``B`` rows, ``L`` places of a history, ``N`` items.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from recbole_ra.data.table import IntArray

RECENT = 10
"""Items that are kept of a memory's history (R)."""

MEMORY_DECAY = 0.8
"""Weight of an item of a memory's history against the one after it."""

DAMPING = 0.5
"""Votes of an item are divided by this power of their sum, so that popular ones do not drown the others."""

ROUNDING = 1e-9
"""What is left of a sum as a share of it, where that is nothing but rounding."""


def _weighed(recent: NDArray[np.integer]) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
    """List the items of histories [M, R], the last one first: memory, item and weight, shape [E] each."""
    weights = np.where(recent > 0, MEMORY_DECAY ** np.arange(recent.shape[1]), 0.0)
    norms = np.sqrt(np.square(weights).sum(1, keepdims=True))
    weights = weights / np.where(norms > 0, norms, 1.0)
    row, column = np.nonzero(recent)
    return row.astype(np.int64), recent[row, column].astype(np.int64), weights[row, column]


def _by_row(matrix: sparse.csr_array) -> IntArray:
    """Return the row of each entry, shape [entries]."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


class Transitions:
    """Votes of items for those that followed them.

    Parameters
    ----------
    recent : int array, shape [M, R]
        The latest items of each memory's history, the last one first; 0 = none.
    values : int array, shape [M]
        The item that followed.
    n_items : int
        Size of the vocabulary, padding included.
    """

    def __init__(self, recent: NDArray[np.int32], values: IntArray, n_items: int) -> None:
        self.n_items = n_items
        self._counts = self._count(recent, values)

    def add(self, recent: NDArray[np.int32], values: IntArray) -> None:
        """Take in further memories."""
        self._counts = self._counts + self._count(recent, values)
        for made in ("votes", "_totals"):
            self.__dict__.pop(made, None)

    def _count(self, recent: NDArray[np.int32], values: IntArray) -> sparse.csr_array:
        """Sum the weight of each item in the histories that each item followed, shape [N, N]."""
        row, item, weight = _weighed(recent)
        entries = (weight, (item, values[row]))
        return sparse.coo_array(entries, shape=(self.n_items, self.n_items)).tocsr()

    @functools.cached_property
    def _totals(self) -> NDArray[np.float64]:
        """Sum of the counts of each item, shape [N]; 1 where there are none."""
        total = self._counts.sum(axis=1)
        return np.where(total > 0, total, 1.0)

    @functools.cached_property
    def votes(self) -> sparse.csr_array:
        """How strongly each item (row) votes for each other one (column), shape [N, N]."""
        return sparse.csr_array(sparse.diags_array(self._totals**-DAMPING) @ self._counts)

    def shares(
        self, histories: Tensor, decay: float, followed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the distribution over items that each history votes for.

        Parameters
        ----------
        histories : int64 Tensor, shape [B, L]
            Oldest item first; places with 0 have no vote.
        decay : float in (0, 1]
            Weight of an item against the one after it.
        followed : int64 Tensor, shape [B], optional
            Each history with what followed it is a memory itself, which is left out for it.

        Returns
        -------
        items : int64 Tensor, shape [B, J]
            Every item with a vote once; other places are 0.
        shares : float32 Tensor, shape [B, J]
            They sum to 1 where there is a vote, else to 0; 0 where the place is.
        """
        row, items, shares = self.listed(histories, decay, followed)
        count = torch.bincount(row, minlength=len(histories))
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        shape = len(histories), int(count.max()) if len(count) else 0
        found, mass = items.new_zeros(shape), shares.new_zeros(shape)
        found[row, place], mass[row, place] = items, shares
        return found, mass

    def listed(
        self, histories: Tensor, decay: float, followed: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`shares` does as a list, row by row: rows, items and shares, shape [V] each."""
        items = histories.cpu().numpy()
        row, column = np.nonzero(items)
        last = np.maximum.reduce(np.where(items > 0, np.arange(items.shape[1]), 0), axis=1, initial=0)
        back = last[row] - column
        entries = (decay**back, (row, items[row, column]))
        query = sparse.coo_array(entries, shape=(len(items), self.n_items)).tocsr()
        own = None if followed is None else self._leave_out(query, items, last)
        votes = sparse.csr_array(query @ self.votes)
        if own is not None and followed is not None:
            wanted = followed.cpu().numpy().astype(votes.indices.dtype)
            place = np.flatnonzero(votes.indices == np.repeat(wanted, np.diff(votes.indptr)))
            vote = votes.data[place]
            left = vote - own[np.searchsorted(votes.indptr, place, side="right") - 1]
            votes.data[place] = np.where(left > ROUNDING * vote, left, 0.0)
        votes.eliminate_zeros()
        # There may be thousands of votes a row: few passes over them.
        shares = np.empty(votes.nnz, dtype=np.float32)
        np.divide(votes.data, np.repeat(votes.sum(1), np.diff(votes.indptr)), out=shares, casting="same_kind")
        found = _by_row(votes), votes.indices.astype(np.int64), shares
        row_of, item, share = (torch.from_numpy(part).to(histories.device) for part in found)
        return row_of, item, share

    def _leave_out(self, query: sparse.csr_array, items: IntArray, last: IntArray) -> NDArray[np.float64]:
        """Damp each vote as if its row were no memory; return how much the row votes for what followed it.

        Parameters
        ----------
        query : csr array, shape [B, N]
            Weight of each voter; changed in place.
        items : int64 array, shape [B, L]
        last : int64 array, shape [B]
            Place of the last item.
        """
        place = last[:, None] - np.arange(RECENT)
        recent = np.where(place >= 0, np.take_along_axis(items, np.maximum(place, 0), 1), 0)
        row, item, weight = _weighed(recent)
        own = sparse.coo_array((weight, (row, item)), shape=query.shape).tocsr()
        given = own[_by_row(query), query.indices]
        total = self._totals[query.indices]
        left = total - given
        there = left > ROUNDING * total
        query.data *= np.where(there, (np.where(there, left, 1.0) / total) ** -DAMPING, 0.0)
        votes = query.data * total**-DAMPING * given
        return np.asarray(np.bincount(_by_row(query), votes, query.shape[0]), dtype=np.float64)

    def name(self, histories: Tensor, items: Tensor) -> Tensor:
        """Tell whether any item of each row's history votes for one item, [B, L], [B] -> bool [B]."""
        voters, wanted = histories.cpu().numpy(), items.cpu().numpy()
        row, column = np.nonzero(voters)
        named = np.zeros(len(voters), dtype=np.bool_)
        named[row[self.votes[voters[row, column], wanted[row]] > 0]] = True
        return torch.from_numpy(named).to(histories.device)
