"""A curriculum draws what its two feeds would have drawn in the same epochs."""

from __future__ import annotations

import numpy as np

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.data.curriculum import Curriculum
from recbole_ra.data.table import Prefixes, SequenceTable


def feed(n_sequences: int) -> SequenceBatches:
    items = np.tile(np.arange(1, 5), n_sequences)
    rows = Prefixes.all_of(SequenceTable.from_arrays(items, np.arange(n_sequences + 1) * 4, 9), 6)
    return SequenceBatches(rows, batch_size=6, targets_per_pass=2, n_groups=2, seed=3)


def drawn(batches: Curriculum | SequenceBatches) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


def test_some_epochs_of_one_feed_and_then_the_other() -> None:
    curriculum = Curriculum(feed(8), feed(4), 2)
    for epoch, source in enumerate([feed(8), feed(8), feed(4), feed(4)]):
        source.epoch = epoch
        assert len(curriculum) == len(source)
        assert drawn(curriculum) == drawn(source)


def test_it_can_be_resumed_after_any_epoch() -> None:
    for epoch in range(4):
        curriculum, again = Curriculum(feed(8), feed(4), 2), Curriculum(feed(8), feed(4), 2)
        epochs = [drawn(curriculum) for _ in range(4)]
        again.epoch = epoch
        assert drawn(again) == epochs[epoch]
