"""Batches that come from one set of rows at first and from another one from some epoch on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recbole_ra.data.batching import SequenceBatches, TrainBatch


class Curriculum:
    """Iterates over the batches of one feed for some epochs, and over those of another one afterwards.

    Parameters
    ----------
    first, then : SequenceBatches
    epochs : int
        Of ``first``.
    """

    def __init__(self, first: SequenceBatches, then: SequenceBatches, epochs: int) -> None:
        self.first, self.then, self.epochs = first, then, epochs
        self.epoch = 0  # the one that is drawn next
        self.dataset: Any = None

    @property
    def now(self) -> SequenceBatches:
        """The feed of the next epoch."""
        return self.first if self.epoch < self.epochs else self.then

    def __len__(self) -> int:
        return len(self.now)

    def __iter__(self) -> Iterator[TrainBatch]:
        feed = self.now
        feed.epoch = self.epoch
        self.epoch += 1
        yield from feed
