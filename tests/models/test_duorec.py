from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_ra.data.batching import SequenceBatches, TrainBatch
from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.models.duorec import DuoRec, DuoRecSettings
from recbole_ra.models.losses import info_nce
from recbole_ra.models.sasrec import SASRec
from recbole_ra.models.softmax import full_softmax

SMALL = DuoRecSettings(hidden_size=16, inner_size=32, hidden_dropout_prob=0.0, attn_dropout_prob=0.0)


@pytest.fixture
def batch() -> TrainBatch:
    rng = np.random.default_rng(0)
    table = SequenceTable.from_arrays(rng.integers(1, 10, 60), np.arange(0, 61, 6), 12)
    feed = SequenceBatches(
        Prefixes.all_of(table, 6),
        batch_size=40,
        targets_per_pass=3,
        n_groups=2,
        seed=0,
        with_positives=True,
    )
    return next(iter(feed))


def model(**changes: object) -> DuoRec:
    torch.manual_seed(0)
    return DuoRec(12, 6, replace(SMALL, **changes)).train()


def views(made: DuoRec, batch: TrainBatch) -> tuple[Tensor, Tensor]:
    return made.target_states(batch), made.positive_states(batch)


def test_positives_stand_beside_their_targets(batch: TrainBatch) -> None:
    """Scores of a model whose state is the item before the target, read off the supervised view."""
    made = model()
    places = [
        (group.items[slot // group.at.shape[1]], int(group.at.flatten()[slot]))
        for group in batch.positives
        for slot in group.slot.tolist()
    ]
    states = made.positive_states(batch)
    for i, order in enumerate(batch.positive_order.tolist()):
        items, at = places[order]
        alone = made.represent(items[None, : at + 1], torch.tensor([at + 1]))
        torch.testing.assert_close(states[i], alone[0])


@pytest.mark.parametrize("contrast", ["us_x", "us", "su", "none"])
def test_the_loss_is_the_sum_of_its_terms(batch: TrainBatch, contrast: str) -> None:
    """Without dropout the unsupervised view is the state itself."""
    made = model(contrast=contrast, lmd=0.3, tau=0.5)
    states, positives = views(made, batch)
    expected = full_softmax(states, made.item_table, batch.targets)
    if contrast == "us":
        expected = expected + 0.3 * info_nce(states, states, 0.5)
    elif contrast != "none":
        expected = expected + 0.3 * info_nce(states, positives, 0.5)
    torch.testing.assert_close(made.calculate_loss(batch), expected)


def test_views_differ_by_dropout(batch: TrainBatch) -> None:
    made = model(hidden_dropout_prob=0.5)
    assert not torch.equal(made.target_states(batch), made.target_states(batch))


@pytest.mark.parametrize(("contrast", "lmd"), [("none", 0.1), ("us_x", 0.0)])
def test_without_the_term_it_is_sasrec(batch: TrainBatch, contrast: str, lmd: float) -> None:
    made = model(contrast=contrast, lmd=lmd)
    torch.manual_seed(0)
    plain = SASRec(12, 6, SMALL).train()
    assert torch.equal(made.calculate_loss(batch), plain.calculate_loss(batch))
    assert not made.needs_positives


@pytest.mark.parametrize(("contrast", "asked"), [("us_x", True), ("su", True), ("us", False)])
def test_positives_are_asked_for_where_they_are_used(contrast: str, asked: bool) -> None:
    assert model(contrast=contrast).needs_positives is asked
