from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_ra.data.batching import SequenceBatches, TrainBatch
from recbole_ra.data.table import Origin, Prefixes, SequenceTable
from recbole_ra.models.cl4srec import CL4SRec, CL4SRecSettings

N_ITEMS = 30


def batches(origin: np.ndarray | Origin, targets_per_pass: int = 3) -> list[TrainBatch]:
    """Rows of six items; originals have items below 16, the others from 16 on."""
    rng = np.random.default_rng(0)
    origin = np.broadcast_to(origin, 20)
    items = rng.integers(1, 15, (20, 6)) + 15 * (origin != Origin.ORIGINAL)[:, None]
    table = SequenceTable.from_arrays(items.ravel(), np.arange(0, 121, 6), N_ITEMS, origin=origin)
    rows = Prefixes.all_of(table, 6)
    made = SequenceBatches(rows, batch_size=40, targets_per_pass=targets_per_pass, n_groups=3, seed=0)
    return list(made)


def model(contrast_data: str, **settings: float) -> CL4SRec:
    torch.manual_seed(0)
    made = CL4SRecSettings(hidden_size=8, inner_size=8, contrast_data=contrast_data, **settings)
    return CL4SRec(N_ITEMS, 6, made)


@pytest.mark.parametrize("targets_per_pass", [1, 3, 50])
@pytest.mark.parametrize("source", ["training", "original", "regenerated"])
def test_views_are_of_the_histories_asked_for(source: str, targets_per_pass: int) -> None:
    origin = np.resize([Origin.ORIGINAL, Origin.PATTERN, Origin.REGENERATED], 20)
    made = model(source)
    for batch in batches(origin, targets_per_pass):
        found = [row for items, _ in made.contrasted(batch) for row in items.tolist()]
        every = [row for group in batch.groups for row in group.items.tolist()]
        is_original = [max(row) <= 15 for row in every]
        wanted = {"training": [True] * len(every), "original": is_original}
        chosen = wanted.get(source, [not one for one in is_original])
        assert found == [row for row, one in zip(every, chosen, strict=True) if one]
        assert found


@pytest.mark.parametrize(
    ("source", "others"), [("original", Origin.PATTERN), ("regenerated", Origin.ORIGINAL)]
)
def test_a_step_without_such_a_history_has_no_contrast(source: str, others: Origin) -> None:
    origin = np.full(20, others)
    origin[0] = Origin.PATTERN if others == Origin.ORIGINAL else Origin.ORIGINAL
    empty = [batch for batch in batches(origin) if not list(model(source).contrasted(batch))]
    assert empty
    with_term, without = model(source, lmd=1).eval(), model(source, lmd=0).eval()
    for batch in empty:
        torch.testing.assert_close(with_term.calculate_loss(batch), without.calculate_loss(batch))


def test_originals_alone_are_all_original() -> None:
    (first, *_) = batches(Origin.ORIGINAL)
    assert first.is_original is None
    assert len(list(model("original").contrasted(first))) == len(first.groups)
