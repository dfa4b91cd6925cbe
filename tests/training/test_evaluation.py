from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator
from scipy import stats
from torch import Tensor

from recbole_ra.core.errors import RecboleRaError
from recbole_ra.data.dataset import Fields
from recbole_ra.training import evaluation
from recbole_ra.training.evaluation import (
    MISSED,
    PROTOCOLS,
    RankingEvaluator,
    error_over_users,
    flat_result,
    hits,
    ranks,
    row_metric,
)
from recbole_ra.training.loaders import EvalBatches

BY_RANK = ["Recall", "NDCG", "MRR", "Hit", "Precision", "MAP", "GAUC"]
SLOW = ["ItemCoverage", "GiniIndex", "AveragePopularity", "ShannonEntropy", "TailPercentage"]


def recbole_metrics(
    config: Any, train: Any, batches: list[tuple[Tensor, Any]], masked: bool
) -> dict[str, float]:
    """RecBole's own collector and evaluator; the history is masked as its evaluation loop does it."""
    collector, evaluator = Collector(config), Evaluator(config)
    collector.data_collect(SimpleNamespace(dataset=train))  # what it looks at of a loader
    for scores, batch in batches:
        scores = scores.clone()
        scores[:, 0] = -torch.inf
        if masked:
            scores[batch.history_row, batch.history_item] = -torch.inf
        collector.eval_batch_collect(scores, batch.query, torch.arange(len(scores)), batch.targets)
    return dict(evaluator.evaluate(collector.data_struct))


@pytest.mark.parametrize("metrics", [BY_RANK, SLOW, [*BY_RANK, *SLOW]], ids=["ranks", "slow", "both"])
def test_metrics_are_those_of_recbole(
    metrics: list[str], tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    config = tiny_config(metrics=metrics, topk=[1, 5, 10], valid_metric=f"{metrics[0]}@5")
    test = tiny_splits.test
    generator = torch.Generator().manual_seed(0)
    batches = []
    for batch in EvalBatches(test, Fields.of(config), batch_size=16, trim=True):
        # A permutation has no ties.
        scores = torch.rand(len(batch.rows), test.item_num, generator=generator).argsort(1).float()
        batches.append((scores, batch))
    evaluator = RankingEvaluator(config, tiny_splits.train)
    assert evaluator.by_rank == (metrics is BY_RANK)
    for scores, batch in batches:
        evaluator.add(scores.clone(), batch, batch.query)
    results = evaluator.result()
    assert tuple(results) == PROTOCOLS
    for protocol, found in results.items():
        expected = recbole_metrics(config, tiny_splits.train, batches, protocol == "masked")
        # A repeated target is a miss under `masked`; the rank of a masked item is for RecBole a tie.
        if protocol == "masked":
            expected.pop("gauc", None)
        for name, value in expected.items():
            assert found[name] == pytest.approx(float(value), abs=1e-6), (protocol, name)
    assert results["masked"] != results["unmasked"]
    assert evaluator.result() == results


def test_other_metrics_do_not_change_what_ties_earn(
    tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    results = []
    for metrics in (["Recall", "MRR"], ["Recall", "MRR", "ItemCoverage"]):
        config = tiny_config(metrics=metrics, topk=[5], valid_metric="MRR@5")
        evaluator = RankingEvaluator(config, tiny_splits.train)
        for batch in EvalBatches(tiny_splits.test, Fields.of(config), batch_size=16, trim=True):
            scores = torch.zeros(len(batch.rows), tiny_splits.test.item_num)
            scores[torch.arange(len(scores)) % 3 == 0, 5:] = 1
            evaluator.add(scores, batch, batch.query)
        results.append({protocol: found["recall@5"] for protocol, found in evaluator.result().items()})
    assert results[0] == results[1] == {"unmasked": 0, "masked": 0}


def evaluated(
    config: Any, train: Any, scores: Tensor, targets: list[int], histories: list[list[int]]
) -> dict[str, dict[str, float]]:
    evaluator = RankingEvaluator(config, train)
    batch = SimpleNamespace(
        targets=torch.tensor(targets),
        history_row=torch.tensor([row for row, items in enumerate(histories) for _ in items]),
        history_item=torch.tensor([item for items in histories for item in items]),
    )
    evaluator.add(scores, batch, None)
    return evaluator.result()


def test_a_repeated_target_has_the_last_place_in_gauc(
    tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    config = tiny_config(metrics=["GAUC"], valid_metric="GAUC")
    scores = torch.arange(13.0).repeat(2, 1)  # item 12 is first, item 1 last
    found = evaluated(config, tiny_splits.train, scores, [11, 10], [[*range(5, 13)], [12, 11, 1]])
    assert found["unmasked"]["gauc"] == pytest.approx((10 / 11 + 9 / 11) / 2)
    assert found["masked"]["gauc"] == pytest.approx((0 + 1) / 2)


def test_lists_longer_than_what_is_left_hold_nothing_that_was_had(
    tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    config = tiny_config(metrics=["ItemCoverage"], topk=[5], valid_metric="ItemCoverage@5")
    n_items = tiny_splits.train.item_num
    scores, had = torch.rand(1, n_items), [*range(5, n_items)]
    found = evaluated(config, tiny_splits.train, scores, [1], [had])
    assert found["unmasked"]["itemcoverage@5"] == pytest.approx(5 / n_items)
    assert found["masked"]["itemcoverage@5"] == pytest.approx(4 / n_items)


def naive_ranks(scores: Tensor, targets: Tensor, histories: list[set[int]]) -> tuple[list[int], list[int]]:
    unmasked, masked = [], []
    for row, target in enumerate(targets.tolist()):
        value = scores[row]
        above = [i for i in range(1, len(value)) if i != target and value[i] >= value[target]]
        unmasked.append(len(above))
        masked.append(MISSED if target in histories[row] else len(set(above) - histories[row]))
    return unmasked, masked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 60, 1 << 20])
@pytest.mark.parametrize("levels", [2, 5, 200])
def test_ranks_equal_the_loop(
    levels: int, at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few levels make many ties, which count against the target."""
    monkeypatch.setattr(evaluation, "COUNTED_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (50, 20), generator=generator).to(dtype)
    targets = torch.randint(1, 20, (50,), generator=generator)
    histories = [
        set(torch.randint(1, 20, (int(n),), generator=generator).tolist())
        for n in torch.randint(0, 12, (50,), generator=generator)
    ]
    row = torch.tensor([r for r, items in enumerate(histories) for _ in items])
    item = torch.tensor([i for items in histories for i in sorted(items)])
    unmasked, masked = ranks(scores, targets, row, item)
    assert (unmasked.tolist(), masked.tolist()) == naive_ranks(scores, targets, histories)


def test_known_ranks() -> None:
    scores = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0]] * 4)
    row, item = torch.tensor([0, 1, 1, 2]), torch.tensor([4, 4, 3, 2])
    unmasked, masked = ranks(scores, torch.tensor([2, 2, 2, 4]), row, item)
    assert unmasked.tolist() == [2, 2, 2, 0]  # padding, the highest score, is no item
    assert masked.tolist() == [1, 0, MISSED, 0]  # row 2's target is in its history: a miss


def test_a_miss_is_one_in_a_catalogue_smaller_than_the_cut() -> None:
    scores, target = torch.arange(5.0)[None], torch.tensor([4])
    unmasked, masked = ranks(scores, target, torch.tensor([0]), target)
    assert hits(unmasked, 20)[:, :20].sum() == 1
    assert hits(masked, 20)[:, :20].sum() == 0


def test_a_model_without_an_opinion_earns_nothing() -> None:
    unmasked, masked = ranks(
        torch.zeros(3, 50), torch.tensor([1, 2, 3]), torch.tensor([0, 0]), torch.tensor([7, 8])
    )
    assert unmasked.tolist() == [48, 48, 48]
    assert masked.tolist() == [46, 48, 48]


def test_metrics_of_known_ranks(tiny_config: Callable[..., Any], tiny_splits: Any) -> None:
    config = tiny_config(metrics=["Recall", "MRR"], topk=[1, 5], valid_metric="MRR@5")
    evaluator = RankingEvaluator(config, tiny_splits.train)
    for collected in evaluator.found.values():
        collected.append(torch.tensor([0, 3, 7, 41]))
    for n_ranked in evaluator.n_ranked.values():
        n_ranked.append(torch.full((4,), 50))
    found = evaluator.result()["unmasked"]
    assert found == pytest.approx({"recall@1": 0.25, "recall@5": 0.5, "mrr@1": 0.25, "mrr@5": 1.25 / 4})


def test_scores_that_are_no_numbers_are_refused(tiny_config: Callable[..., Any], tiny_splits: Any) -> None:
    config = tiny_config()
    evaluator = RankingEvaluator(config, tiny_splits.train)
    batch = next(iter(EvalBatches(tiny_splits.test, Fields.of(config), batch_size=4, trim=True)))
    scores = torch.zeros(4, tiny_splits.test.item_num)
    scores[2, 3] = torch.nan
    with pytest.raises(RecboleRaError, match=r"not numbers \(NaN\); lower learning_rate"):
        evaluator.add(scores, batch, batch.query)


def test_the_error_of_a_mean_is_over_users() -> None:
    rng = np.random.default_rng(0)
    gains = rng.normal(size=50)
    assert error_over_users(gains, rng.permutation(50)) == pytest.approx(stats.sem(gains))
    users = np.repeat(np.arange(50), 20)  # twenty equal rows of each user say no more than one
    assert error_over_users(np.repeat(gains, 20), users) == pytest.approx(stats.sem(gains))
    assert error_over_users(gains, np.zeros(50, np.int64)) == math.inf


def test_rows_are_compared_by_what_is_a_mean_over_them() -> None:
    assert row_metric("recall@5") == "recall@5"
    assert (row_metric("itemcoverage@5"), row_metric("gauc")) == ("ndcg@5", "ndcg@10")


def test_flat_results_name_the_protocol() -> None:
    flat = flat_result({"unmasked": {"mrr@5": 1.0}, "masked": {"mrr@5": 2.0}})
    assert flat == {"mrr@5": 1.0, "masked_mrr@5": 2.0, "mean_mrr@5": 1.5}
