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

from recbole_ra.data.table import IntArray, places

RECENT = 10
"""Items that are kept of a memory's history (R)."""

MEMORY_DECAY = 0.8
"""Weight of an item of a memory's history against the one after it."""

DAMPING = 0.5
"""Votes of an item are divided by this power of their sum, so that popular ones do not drown the others."""


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
        self.__dict__.pop("votes", None)

    def _count(self, recent: NDArray[np.int32], values: IntArray) -> sparse.csr_array:
        """Sum the weight of each item in the histories that each item followed, shape [N, N]."""
        weights = np.where(recent > 0, MEMORY_DECAY ** np.arange(recent.shape[1]), 0.0)
        norms = np.sqrt(np.square(weights).sum(1, keepdims=True))
        weights = weights / np.where(norms > 0, norms, 1.0)
        row, column = np.nonzero(recent)
        entries = (weights[row, column], (recent[row, column], values[row]))
        return sparse.coo_array(entries, shape=(self.n_items, self.n_items)).tocsr()

    @functools.cached_property
    def votes(self) -> sparse.csr_array:
        """How strongly each item (row) votes for each other one (column), shape [N, N]."""
        total = self._counts.sum(axis=1)
        scale = np.where(total > 0, total, 1.0) ** -DAMPING
        return sparse.csr_array(sparse.diags_array(scale) @ self._counts)

    def shares(self, histories: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Return the distribution over items that each history votes for.

        Parameters
        ----------
        histories : int64 Tensor, shape [B, L]
            Oldest item first; places with 0 have no vote.
        decay : float in (0, 1]
            Weight of an item against the one after it.

        Returns
        -------
        items : int64 Tensor, shape [B, J]
            Every item with a vote once; other places are 0.
        shares : float32 Tensor, shape [B, J]
            They sum to 1 where there is a vote, else to 0; 0 where the place is.
        """
        items = histories.cpu().numpy()
        row, column = np.nonzero(items)
        last = np.maximum.reduce(np.where(items > 0, np.arange(items.shape[1]), 0), axis=1, initial=0)
        back = last[row] - column
        query = sparse.coo_array((decay**back, (row, items[row, column])), shape=(len(items), self.n_items))
        votes = sparse.csr_array(query.tocsr() @ self.votes)
        count = np.diff(votes.indptr).astype(np.int64)
        row, place = np.repeat(np.arange(len(items)), count), places(np.zeros_like(count), count)
        total = np.maximum(votes.sum(axis=1), np.finfo(np.float64).tiny)
        found = np.zeros((len(items), int(count.max(initial=0))), dtype=np.int64)
        shares = np.zeros(found.shape, dtype=np.float32)
        found[row, place], shares[row, place] = votes.indices, votes.data / total[row]
        return torch.from_numpy(found).to(histories.device), torch.from_numpy(shares).to(histories.device)
