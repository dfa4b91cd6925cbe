"""The long tail of a data set: which users and items are its head, and the contexts that they stand in.

A context of an item is a history that ends with it; a user's own history is the context of the last item.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_ra.data.batching import least_padding
from recbole_ra.data.table import IntArray, SequenceTable, gather_windows, offsets_of, places

N_GROUPS = 4
"""Groups of like length that are encoded one after another."""


@dataclass(frozen=True, eq=False)
class LongTail:
    """Heads, tails and contexts of training sequences.

    Attributes
    ----------
    table : SequenceTable
    max_length : int
        Longest history that is encoded.
    user_limit, item_limit : int
        Longest history of a tail user; most interactions of a tail item. The longest and the most frequent
        are never the tail.
    head_users : int64 array, shape [H]
        Sequences of head users.
    head_items, tail_items : int64 arrays
        Items that occur, split by their frequency.
    ends : int64 array, shape [interactions]
        Places in ``table.items``, those of each item together.
    starts : int64 array, shape [n_items + 1]
        Where each item's places begin among them.
    """

    table: SequenceTable
    max_length: int
    user_limit: int
    item_limit: int
    head_users: IntArray
    head_items: IntArray
    tail_items: IntArray
    ends: IntArray
    starts: IntArray

    @classmethod
    def of(cls, table: SequenceTable, max_length: int, share: float) -> LongTail:
        """Split at a quantile: ``share`` of the users, and of the items, are the tail.

        Histories are told apart up to ``max_length`` items alone, so that longer ones are always the head's.
        A user without any training item is not counted.
        """
        counts = np.bincount(table.items, minlength=table.n_items)
        there = np.flatnonzero(counts)
        user_limit = min(_limit(table.lengths[table.lengths > 0], share), max_length - 1)
        item_limit = _limit(counts[there], share)
        return cls(
            table,
            max_length,
            user_limit,
            item_limit,
            np.flatnonzero(table.lengths > user_limit),
            there[counts[there] > item_limit],
            there[counts[there] <= item_limit],
            np.argsort(table.items, kind="stable"),
            offsets_of(counts),
        )

    @property
    def n_targets(self) -> int:
        """Number of training targets."""
        return int(np.maximum(self.table.lengths - 1, 0).sum())

    def frequency(self, items: IntArray) -> IntArray:
        """Count the interactions of items."""
        return self.starts[items + 1] - self.starts[items]

    def contexts(self, items: IntArray) -> tuple[IntArray, IntArray]:
        """List the contexts of items: their last places, and which of ``items`` each belongs to."""
        counts = self.frequency(items)
        return self.ends[places(self.starts[items], counts)], np.repeat(np.arange(len(items)), counts)

    def draw_contexts(self, items: IntArray) -> tuple[IntArray, IntArray]:
        """Draw as many contexts of each item as a tail item may have: 1 to ``item_limit``, at random."""
        ends, owner = self.contexts(items)
        counts = self.frequency(items)
        wanted = 1 + (torch.rand(len(items)).numpy() * np.minimum(counts, self.item_limit)).astype(np.int64)
        order = np.argsort(owner + torch.rand(len(owner)).double().numpy(), kind="stable")
        kept = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner] < wanted[owner]
        return ends[order[kept]], owner[kept]

    def lengths(self, ends: IntArray) -> IntArray:
        """Return how long the history is that ends at each place, at most ``max_length``."""
        sequence = np.searchsorted(self.table.offsets, ends, side="right") - 1
        return np.minimum(ends + 1 - self.table.offsets[sequence], self.max_length)

    def encode(self, encode: Callable[[Tensor, Tensor], Tensor], ends: IntArray, lengths: IntArray) -> Tensor:
        """Encode the histories of some lengths that end at some places, shape [len(ends), D].

        Parameters
        ----------
        encode : callable
            Items [B, L] and places [B, 1] -> states [B, 1, D].
        ends, lengths : int64 arrays, shape [rows]
        """
        order = np.argsort(lengths, kind="stable")
        states = []
        for a, b in itertools.pairwise(least_padding(lengths[order], N_GROUPS)):
            end, length = ends[order[a:b]], lengths[order[a:b]]
            items = gather_windows(self.table.items, end + 1 - length, length)
            states.append(encode(torch.from_numpy(items), torch.from_numpy(length[:, None] - 1)).squeeze(1))
        found = torch.cat(states)
        return found[torch.from_numpy(np.argsort(order)).to(found.device)]


def _limit(sizes: IntArray, share: float) -> int:
    """Return the size at a quantile, below the largest."""
    return min(int(np.quantile(sizes, share)), int(sizes.max()) - 1)
