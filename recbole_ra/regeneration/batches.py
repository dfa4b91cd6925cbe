"""Batches of (sequence, pattern) pairs for the regenerator (METHOD 1.3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_ra.core.seeding import stream
from recbole_ra.data.batching import least_padding
from recbole_ra.data.table import IntArray, SequenceTable, gather_windows


@dataclass
class PairBatch:
    """One optimisation step.

    Attributes
    ----------
    groups : list of (source [b, L], pattern [b, T])
        int64, right-padded with 0; sources of like length share a group.
    step : int
        Optimisation steps before this one, over all epochs.
    """

    groups: list[tuple[Tensor, Tensor]]
    step: int

    def to(self, device: torch.device | str) -> PairBatch:
        """Move every tensor to a device."""
        return PairBatch([(s.to(device), p.to(device)) for s, p in self.groups], self.step)


class PairBatches:
    """Iterates over one epoch of random pairs; every pair exactly once.

    Parameters
    ----------
    sources, patterns : SequenceTable
        Rows of at least one item; the sources no longer than the regenerator's position table.
    sequence, pattern : int64 arrays, shape [pairs]
        Row of ``sources`` and row of ``patterns`` of each pair.
    batch_size : int
        Pairs a step.
    n_groups : int
        Most groups of like source length in a batch.
    seed : int
        Epoch ``e`` is drawn from the stream ``(seed, "pair batches", e)``.
    shuffle : bool
        False keeps the order of the pairs.

    Attributes
    ----------
    epoch : int
        Number of the next epoch; may be set to resume.

    Raises
    ------
    ValueError
        If a row is empty, or a pattern holds an item that its sequence does not.
    """

    def __init__(
        self,
        sources: SequenceTable,
        patterns: SequenceTable,
        sequence: IntArray,
        pattern: IntArray,
        *,
        batch_size: int = 256,
        n_groups: int = 4,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self.sources, self.patterns = sources, patterns
        self.sequence, self.pattern = sequence, pattern
        self.batch_size = batch_size
        self.n_groups = n_groups
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._check()

    def _check(self) -> None:
        lengths = self.patterns.lengths[self.pattern]
        if (lengths == 0).any() or (self.sources.lengths[self.sequence] == 0).any():
            raise ValueError("a pair has a sequence or a pattern without items")
        width = max(self.sources.n_items, self.patterns.n_items)
        owner = np.repeat(np.arange(len(self.sources)), self.sources.lengths)
        held = np.unique(owner * width + self.sources.items)
        start = np.repeat(self.patterns.offsets[self.pattern] - np.cumsum(lengths) + lengths, lengths)
        wanted = self.patterns.items[start + np.arange(lengths.sum())]
        pair = np.repeat(np.arange(len(lengths)), lengths)
        missing = np.flatnonzero(~np.isin(self.sequence[pair] * width + wanted, held))
        if len(missing):
            raise ValueError(
                f"pair {pair[missing[0]]}: item {wanted[missing[0]]} of the pattern is not in the sequence"
            )

    def __len__(self) -> int:
        return -(-len(self.sequence) // self.batch_size)

    def __iter__(self) -> Iterator[PairBatch]:
        epoch, n = self.epoch, len(self.sequence)
        self.epoch += 1
        rng = stream(self.seed, "pair batches", epoch)
        order = rng.permutation(n) if self.shuffle else np.arange(n)
        for number, first in enumerate(range(0, n, self.batch_size)):
            pairs = order[first : first + self.batch_size]
            yield PairBatch(self._groups(pairs), epoch * len(self) + number)

    def _groups(self, pairs: IntArray) -> list[tuple[Tensor, Tensor]]:
        lengths = self.sources.lengths[self.sequence[pairs]]
        order = np.argsort(lengths, kind="stable")
        pairs, lengths = pairs[order], lengths[order]
        edges = least_padding(lengths, self.n_groups)
        return [
            (_rows(self.sources, self.sequence[pairs[a:b]]), _rows(self.patterns, self.pattern[pairs[a:b]]))
            for a, b in itertools.pairwise(edges)
        ]


def _rows(table: SequenceTable, rows: IntArray) -> Tensor:
    """Right-padded items, int64 [rows, longest]."""
    start = table.offsets[rows]
    return torch.from_numpy(gather_windows(table.items, start, table.offsets[rows + 1] - start))


LEAST_TAU = 0.1


def annealed(step: int) -> float:
    """Temperature of the Gumbel softmax: from 1, times .995 per step, to :data:`LEAST_TAU` (METHOD 1.3)."""
    return max(LEAST_TAU, 0.995**step)
