from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recbole_ra
from recbole_ra.inference import scoring, selection
from recbole_ra.inference.scoring import best


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_best_are_those_of_a_stable_sort(rows: int, columns: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (rows, columns)).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    values, found = best(torch.from_numpy(scores), k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, axis=1)
    np.testing.assert_array_equal(values.numpy(), expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found.numpy()[finite], order[finite])


def test_blocks_and_chunks_change_nothing(
    recommender: recbole_ra.Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recommender.recommend("all")
    monkeypatch.setattr(scoring, "ROWS", 3)
    monkeypatch.setattr(selection, "CHUNK", 7)
    parts = list(recommender.tables(recommender.requests("all"), recommender.selection()))
    assert [part["user"].nunique() for part in parts] == [7, 7, 7, 7, 7, 5]
    again = recommender.recommend("all")
    assert again["item"].tolist() == whole["item"].tolist()
    np.testing.assert_allclose(again["score"], whole["score"], atol=1e-6)


def test_a_block_holds_no_more_scores_than_allowed(
    recommender: recbole_ra.Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CELLS", 5 * recommender.scorer.n_items)
    sizes = [scores.numel() for _, scores in recommender.scorer.blocks(recommender.requests("all"))]
    assert len(sizes) == 8
    assert max(sizes) <= 5 * recommender.scorer.n_items
