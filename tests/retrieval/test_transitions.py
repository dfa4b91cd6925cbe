"""Votes of items for what followed them: known answers, the loop that they stand for, and their mixture."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.retrieval.bank import memories_of, recent_items
from recbole_ra.retrieval.held_out import set_weights
from recbole_ra.retrieval.transitions import DAMPING, MEMORY_DECAY, RECENT, Transitions

N_ITEMS = 9
histories = st.lists(st.lists(st.integers(1, N_ITEMS - 1), min_size=1, max_size=5), min_size=1, max_size=6)


def padded(rows: list[list[int]], width: int) -> np.ndarray:
    return np.array([row + [0] * (width - len(row)) for row in rows])


def neighbours_vote(
    memories: list[list[int]], values: list[int], history: list[int], decay: float
) -> dict[int, float]:
    """Every memory votes with its similarity; histories of memories stand last item first."""
    spoken: defaultdict[int, float] = defaultdict(float)
    weights = []
    for memory in memories:
        raw = [MEMORY_DECAY**place for place in range(len(memory))]
        weights.append([weight / np.sqrt(np.square(raw).sum()) for weight in raw])
        for item, weight in zip(memory, weights[-1], strict=True):
            spoken[item] += weight
    query: defaultdict[int, float] = defaultdict(float)
    for back, item in enumerate(reversed(history)):
        query[item] += decay**back
    votes: defaultdict[int, float] = defaultdict(float)
    for memory, own, value in zip(memories, weights, values, strict=True):
        for item, weight in zip(memory, own, strict=True):
            if item in query:
                votes[value] += query[item] * weight / spoken[item] ** DAMPING
    total = sum(votes.values())
    return {item: vote / total for item, vote in votes.items()}


@given(histories, histories, st.sampled_from([0.4, 1.0]), st.randoms(use_true_random=False))
def test_votes_are_those_of_all_memories_as_neighbours(
    memories: list[list[int]], asked: list[list[int]], decay: float, random: Any
) -> None:
    values = [random.randint(1, N_ITEMS - 1) for _ in memories]
    recent = padded(memories, 6).astype(np.int32)
    cut = random.randint(0, len(memories))
    transitions = Transitions(recent[:cut], np.array(values[:cut], dtype=np.int64), N_ITEMS)
    transitions.shares(torch.tensor([[1]]), 1.0)  # what was asked before does not matter
    transitions.add(recent[cut:], np.array(values[cut:], dtype=np.int64))
    items, shares = transitions.shares(torch.from_numpy(padded(asked, 6)), decay)
    for row, history in enumerate(asked):
        expected = neighbours_vote(memories, values, history, decay)
        there = items[row] > 0
        assert len(items[row][there].unique()) == there.sum()
        assert (shares[row][~there] == 0).all()
        found = dict(zip(items[row][there].tolist(), shares[row][there].tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-5)


@given(histories, st.sampled_from([0.4, 1.0]), st.data())
def test_a_row_that_is_a_memory_itself_is_left_out(
    memories: list[list[int]], decay: float, data: st.DataObject
) -> None:
    """As if it were not there, for each row by itself."""
    values = [data.draw(st.integers(1, N_ITEMS - 1)) for _ in memories]
    recent = padded(memories, RECENT).astype(np.int32)
    transitions = Transitions(recent, np.array(values), N_ITEMS)
    rows = padded([memory[::-1] for memory in memories], 6)
    items, shares = transitions.shares(torch.from_numpy(rows), decay, torch.tensor(values))
    for row in range(len(memories)):
        others = np.delete(recent, row, 0), np.delete(np.array(values), row)
        expected = Transitions(*others, N_ITEMS).shares(torch.from_numpy(rows[row : row + 1]), decay)
        wanted = {int(item): float(share) for item, share in zip(*(x[0] for x in expected), strict=True)}
        found = {int(item): float(share) for item, share in zip(items[row], shares[row], strict=True) if item}
        assert found == pytest.approx(wanted, abs=1e-6)


def test_an_item_that_never_voted() -> None:
    items, shares = Transitions(np.array([[1]], np.int32), np.array([2]), 4).shares(
        torch.tensor([[3, 0], [1, 0]]), 0.5
    )
    assert items.tolist() == [[0], [2]]
    assert shares.tolist() == [[0.0], [1.0]]


def test_recent_items_of_prefixes() -> None:
    table = SequenceTable.from_arrays(np.arange(1, 15), np.array([0, 12, 14]), 20)
    rows = Prefixes(table, np.array([0, 0, 1]), np.array([11, 2, 1]), 50)
    recent = recent_items(rows)
    assert recent.shape == (3, RECENT)
    assert recent[0].tolist() == list(range(11, 1, -1))
    assert recent[1].tolist() == [2, 1] + [0] * (RECENT - 2)
    assert recent[2].tolist() == [13] + [0] * (RECENT - 1)
    cut = recent_items(dataclasses.replace(rows, max_length=4))  # as a history that is asked is cut
    assert cut[0].tolist() == [11, 10, 9, 8] + [0] * (RECENT - 4)


def test_scores_follow_the_mixture(make: Callable[..., Any], tiny_splits: Any) -> None:
    model, queries = make(fusion="transitions"), tiny_splits.test[torch.arange(20)]
    set_weights(model, {"mixture_weight": 0.7, "decay": 0.5})
    found = model.full_sort_predict(queries).softmax(1)
    items, shares = model.mixture.transitions.shares(queries[model.fields.history], 0.5)
    votes = torch.zeros(found.shape, dtype=torch.float64).scatter_add_(1, items, shares.double())
    assert (votes.sum(1) > 0.99).all()
    expected = 0.7 * model.base.full_sort_predict(queries).softmax(1) + 0.3 * votes
    torch.testing.assert_close(found, expected.float())
    targets = queries[model.fields.item]
    torch.testing.assert_close(
        model.predict(queries), model.full_sort_predict(queries).gather(1, targets[:, None])[:, 0]
    )


def test_remembered_interactions_vote(make: Callable[..., Any], tiny_splits: Any) -> None:
    """What is added later counts as if it had been there from the beginning."""
    model, queries = make(fusion="transitions"), tiny_splits.test[torch.arange(20)]
    set_weights(model, {"mixture_weight": 0.5})
    states = model.base.represent(tiny_splits.valid[torch.arange(len(tiny_splits.valid))]).detach().numpy()
    before = model.full_sort_predict(queries)
    model.remember(keys=states, **memories_of(tiny_splits.valid.prefixes))
    after = model.full_sort_predict(queries)
    assert not torch.allclose(before, after)
    model.set_bank(model.bank)  # counted anew
    torch.testing.assert_close(model.full_sort_predict(queries), after)
