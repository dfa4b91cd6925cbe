from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.data.dataset import Fields, Splits
from recbole_ra.retrieval.retrieved import Retrieved
from recbole_ra.training import evaluation
from recbole_ra.training.loaders import EvalBatches, cut_rows, train_batches
from recbole_ra.training.setup import build_base


@pytest.fixture
def fields(tiny_config: Callable[..., Any]) -> Fields:
    return Fields.of(tiny_config())


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
@pytest.mark.parametrize("trim", [True, False])
def test_every_row_is_evaluated_once(tiny_splits: Any, fields: Fields, batch_size: int, trim: bool) -> None:
    test = tiny_splits.test
    batches = EvalBatches(test, fields, batch_size=batch_size, trim=trim)
    parts = list(batches)
    assert len(parts) == len(batches)
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows) == list(range(len(test)))
    for part in parts:
        expected = test[part.rows]
        np.testing.assert_array_equal(part.targets, expected["item_id"])
        assert torch.equal(part.query["item_length"], expected["item_length"])
        width = int(expected["item_length"].max()) if trim else test.max_item_list_len
        assert torch.equal(part.query["item_id_list"], expected["item_id_list"][:, :width])


def test_a_large_catalogue_is_scored_for_fewer_rows_at_once(
    tiny_splits: Any, fields: Fields, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_items = tiny_splits.test.prefixes.table.n_items
    monkeypatch.setattr(evaluation, "SCORED_AT_ONCE", 20 * n_items)
    assert EvalBatches(tiny_splits.test, fields, batch_size=60, trim=True).batch_size == 20
    assert EvalBatches(tiny_splits.test, fields, batch_size=7, trim=True).batch_size == 7
    monkeypatch.setattr(evaluation, "SCORED_AT_ONCE", 1)
    assert evaluation.rows_scored_together(60, n_items) == evaluation.FEWEST_ROWS


def test_histories_are_whole_and_without_repetitions(tiny_splits: Any, fields: Fields) -> None:
    """Also of what lies before the longest history that a model is given."""
    longer, repeated = 0, 0
    for split in (tiny_splits.train, tiny_splits.test):
        p = split.prefixes
        for batch in EvalBatches(split, fields, batch_size=13, trim=True):
            for place, row in enumerate(batch.rows):
                start = p.table.offsets[p.sequence[row]]
                history = p.table.items[start : start + p.position[row]].tolist()
                found = batch.history_item[batch.history_row == place].tolist()
                assert found == sorted(set(history))
                longer += len(history) > p.max_length
                repeated += len(found) < len(history)
    assert longer > 0
    assert repeated > 0


def test_known_states_are_handed_out_row_by_row(tiny_splits: Any, fields: Fields) -> None:
    n = len(tiny_splits.test)
    retrieved = Retrieved(
        torch.arange(n).float()[:, None], torch.arange(n)[:, None], torch.ones(n, 1, dtype=torch.bool)
    )
    for batch in EvalBatches(tiny_splits.test, fields, batch_size=13, trim=True, query=retrieved.__getitem__):
        np.testing.assert_array_equal(batch.query.ids[:, 0], batch.rows)


def test_cutting_rows_does_not_touch_the_data(tiny_splits: Any, fields: Fields) -> None:
    before = tiny_splits.test[np.arange(5)]["item_id_list"]
    cut_rows(tiny_splits.test, np.arange(5), fields, trim=True)
    assert torch.equal(tiny_splits.test[np.arange(5)]["item_id_list"], before)


@pytest.mark.parametrize("model", ["SASRec", "DuoRec"])
def test_our_backbones_get_sequence_batches(
    model: str, tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    config = tiny_config(model, train_batch_size=64, targets_per_pass=3, seed=5)
    base = build_base(config, tiny_splits)
    batches = train_batches(config, tiny_splits, base.own, tiny_splits.train)
    assert isinstance(batches, SequenceBatches)
    assert (batches.batch_size, batches.targets_per_pass, batches.seed) == (64, 3, 5)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows) == list(range(len(tiny_splits.train)))
    assert all(bool(batch.positives) == (model == "DuoRec") for batch in batches)


def test_models_of_recbole_get_its_loader_with_our_seed(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config("NARM", train_batch_size=64)
    splits = Splits.load(config)

    def epochs(first: int, count: int) -> list[Any]:
        loader = train_batches(config, splits, None, splits.train)
        loader.epoch = first
        return [[batch["flat_position"].tolist() for batch in loader] for _ in range(count)]

    unbroken = epochs(0, 3)
    rows = [row for batch in unbroken[0] for row in batch]
    assert sorted(rows) == sorted(splits.train.inter_feat["flat_position"].tolist())
    assert unbroken[0] != unbroken[1]
    assert epochs(2, 1) == unbroken[2:]


def test_splits_may_be_empty(tiny_config: Callable[..., Any]) -> None:
    splits = Splits.load(tiny_config(eval_args={"split": {"LS": "test_only"}}))
    assert len(splits.valid) == 0
    assert len(splits.test) == 60
