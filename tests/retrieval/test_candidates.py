"""Candidates measured together give, row by row, what the scores of each of them give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra.retrieval import candidates, held_out
from recbole_ra.retrieval.candidates import metric_of_rows
from recbole_ra.retrieval.finetuning import cached
from recbole_ra.retrieval.held_out import HeldOut, LogShares, set_weights
from recbole_ra.retrieval.neighbours import Queries
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.training.evaluation import PROTOCOLS, cut_of, of_rows, ranks
from recbole_ra.training.loaders import EvalBatches

USES = [
    ("raserec+transitions", "none", "ndcg@10"),
    ("raserec+transitions", "state", "mrr@3"),
    ("scaled+knn", "none", "recall@1"),
    ("gate", "state", "ndcg@10"),
    ("entropy+transitions", "none", "ndcg@10"),
    ("knn", "scalar", "ndcg@3"),
]


def settings_of(model: RetrievalRecommender) -> list[dict[str, float]]:
    """Every weight and every parameter with another one: nothing that a search tries is easier."""
    alphas = [{"alpha": alpha} for alpha in (1.0, 0.6, 0.2)] if model.fusion is not None else [{}]
    if model.mixture is None:
        return alphas
    weights = [(1.0, 0.5), (0.9, 0.5), (0.5, 0.5), (0.1, 0.5), (0.3, 0.05)]
    mixed = [{"mixture_weight": weight, model.mixture.parameter: sharp} for weight, sharp in weights]
    return [{**alpha, **mixture} for alpha in alphas for mixture in mixed]


def naive(
    model: RetrievalRecommender, batches: EvalBatches, setting: dict[str, float], metric: str
) -> dict[str, np.ndarray]:
    """Score every item."""
    set_weights(model, setting)
    found: dict[str, list[np.ndarray]] = {name: [] for name in PROTOCOLS}
    for batch in batches:
        scores = model.full_sort_predict(batch.query)
        both = ranks(scores, batch.targets, batch.history_row, batch.history_item)
        for name, rank in zip(PROTOCOLS, both, strict=True):
            found[name].append(of_rows(metric, rank))
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.mark.parametrize(("fusion", "history_bias", "metric"), USES)
def test_every_row_as_by_the_scores_of_all_items(
    fusion: str,
    history_bias: str,
    metric: str,
    make: Callable[..., Any],
    tiny_splits: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_out, "CPU_BLOCK_ELEMENTS", 200)  # blocks of few rows
    monkeypatch.setattr(candidates, "PART", 2)
    model, split = make(fusion=fusion, history_bias=history_bias, std=0.3).double(), tiny_splits.valid
    model._keys = model._keys.double()
    states = model.base.represent(split[torch.arange(len(split))]).detach()
    found = cached(model, split, model.retrieve(states, Queries.of(split.prefixes)))
    batches = EvalBatches(split, model.fields, batch_size=50, trim=True, query=found)
    settings = settings_of(model)
    with torch.no_grad():
        expected = [naive(model, batches, setting, metric) for setting in settings]
    fast = metric_of_rows(model, batches, settings, metric)
    for setting, one, other in zip(settings, fast, expected, strict=True):
        for name in PROTOCOLS:
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"{setting} {name}")
        np.testing.assert_allclose(one["mean"], (other["masked"] + other["unmasked"]) / 2)
    assert 0 < np.mean([one["masked"] > 0 for one in fast]) < 1


def test_rows_without_a_chance_are_not_scored(
    make: Callable[..., Any], tiny_splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every item is compared first, what is scored in full is little more than the hits."""
    monkeypatch.setattr(candidates, "PART", 1)
    scored: list[int] = []
    plain = candidates._ranks_of

    def counted(rows: HeldOut, part: torch.Tensor, *facts: Any) -> torch.Tensor:
        scored.append(len(part))
        return plain(rows, part, *facts)

    monkeypatch.setattr(candidates, "_ranks_of", counted)
    model, split = make(fusion="transitions", std=0.3), tiny_splits.valid
    batches = EvalBatches(split, model.fields, batch_size=50, trim=True)
    allowed = np.bincount(np.concatenate([batch.history_row + 50 * k for k, batch in enumerate(batches)]))
    off = {"mixture_weight": 1.0, "decay": 0.6}
    with torch.no_grad():
        rank = np.concatenate(
            [
                ranks(model.base.full_sort_predict(b.query), b.targets, b.history_row, b.history_item)[0]
                for b in batches
            ]
        )
    metric_of_rows(model, batches, [off], "recall@1")
    assert sum(scored) == (rank < allowed + 1).sum() < len(split)


def test_shares_of_some_rows() -> None:
    row = torch.tensor([0, 0, 2, 3, 3, 3])
    said = LogShares(row, torch.arange(6), torch.arange(6.0), torch.bincount(row))
    some = said.of(torch.tensor([3, 1, 0]))
    assert some.row.tolist() == [0, 0, 0, 2, 2]
    assert some.item.tolist() == [3, 4, 5, 0, 1]
    assert some.share.tolist() == [3, 4, 5, 0, 1]
    assert some.count.tolist() == [3, 0, 2]


@pytest.mark.parametrize("fusion", ["knn", "transitions"])
def test_what_is_listed_is_what_has_a_share(fusion: str, make: Callable[..., Any], tiny_splits: Any) -> None:
    model = make(fusion=fusion, std=0.3)
    query = model.query(tiny_splits.valid[torch.arange(20)])
    memories = model.memories(query)
    items, shares = model.mixture.shares(query, memories)
    row, item, share = model.mixture.listed(query, memories)
    dense = torch.full((20, len(model.item_table)), -torch.inf, dtype=shares.dtype)
    dense[row, item] = share
    there = torch.isfinite(shares)
    assert len(row) == there.sum()
    assert torch.equal(dense.gather(1, items)[there], shares[there])
    for target in range(1, len(model.item_table)):
        named = model.mixture.names(query, memories, torch.full((20,), target))
        assert torch.equal(named, torch.isfinite(dense[:, target]))


def test_the_cut_of_a_metric() -> None:
    assert (cut_of("ndcg@5"), cut_of("gauc")) == (5, 10)


def test_memories_are_read_only_where_a_setting_asks_for_them(
    make: Callable[..., Any], tiny_splits: Any
) -> None:
    model = make(fusion="raserec+transitions")
    query = model.query(tiny_splits.valid[torch.arange(5)])
    with torch.no_grad():
        assert HeldOut.of(model, [{"alpha": 1.0, "mixture_weight": 0.5}], query).read is None
        assert HeldOut.of(model, [{"alpha": 0.5, "mixture_weight": 1.0}], query).read is not None
