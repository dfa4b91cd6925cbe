"""Batches of (sequence, pattern) pairs for the regenerator (METHOD 1.3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_ra.core.seeding import stream
from recbole_ra.data.batching import Movable, least_padding
from recbole_ra.data.table import IntArray, SequenceTable, gather_windows

N_GROUPS = 4
"""Most groups of like source length in a batch."""

TAU_MIN = 0.1
"""Where the annealing of the Gumbel softmax ends (METHOD 1.3)."""


@dataclass
class PairBatch(Movable):
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


class PairBatches:
    """Iterates over one epoch of pairs; every pair exactly once.

    Parameters
    ----------
    sources, patterns : SequenceTable
        Rows of at least one item; the sources no longer than the regenerator's position table.
    sequence, pattern : int64 arrays, shape [pairs]
        Row of ``sources`` and row of ``patterns`` of each pair; the source holds the pattern's items.
    seed : int
        The order of epoch ``e`` is drawn from the stream ``(seed, "pair batches", e)``.
    """

    def __init__(
        self,
        sources: SequenceTable,
        patterns: SequenceTable,
        sequence: IntArray,
        pattern: IntArray,
        *,
        batch_size: int = 256,
        seed: int,
        shuffle: bool = True,
    ) -> None:
        self.sources, self.patterns = sources, patterns
        self.sequence, self.pattern = sequence, pattern
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0  # the next one; set it to resume

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
        parts = [pairs[order[a:b]] for a, b in itertools.pairwise(least_padding(lengths[order], N_GROUPS))]
        return [(_rows(self.sources, self.sequence[p]), _rows(self.patterns, self.pattern[p])) for p in parts]


def _rows(table: SequenceTable, rows: IntArray) -> Tensor:
    """Right-padded items, int64 [rows, longest]."""
    start = table.offsets[rows]
    return torch.from_numpy(gather_windows(table.items, start, table.offsets[rows + 1] - start))


def annealed(step: int) -> float:
    """Temperature of the Gumbel softmax at an optimisation step, from 1 on (METHOD 1.3)."""
    return max(TAU_MIN, 0.995**step)
