"""MELT's branches, losses and curriculum, one row after another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_ra import run
from recbole_ra.data.table import SequenceTable, offsets_of
from recbole_ra.models.melt import MELT, MELTFMLPRec, MELTSASRec

N_ITEMS, MAX_LENGTH = 9, 6
SEQUENCES = [[1, 2, 3, 1, 2, 1, 3], [1, 2], [3, 1], [2, 1, 4, 2, 1], [5, 2], [6, 1], [1, 3, 5, 1, 2]]
kinds = pytest.mark.parametrize("kind", [MELTSASRec, MELTFMLPRec])


def build(kind: Any, **changes: Any) -> MELT:
    torch.manual_seed(0)
    settings = kind.Settings(hidden_size=8, inner_size=16, pareto_rule=0.6, **changes)
    model = kind(N_ITEMS, MAX_LENGTH, settings).eval()
    offsets = offsets_of(np.array([len(sequence) for sequence in SEQUENCES]))
    model.see(SequenceTable.from_arrays(np.concatenate(SEQUENCES), offsets, N_ITEMS))
    return model


def plain(model: MELT, history: list[int]) -> Tensor:
    """The state of the backbone alone, shape [D]."""
    items = torch.tensor([history[-MAX_LENGTH:]])
    return super(MELT, model).encode(items, torch.tensor([[items.shape[1] - 1]]))[0, 0]


def contexts(item: int) -> list[list[int]]:
    return [seq[: place + 1] for seq in SEQUENCES for place, one in enumerate(seq) if one == item]


@kinds
def test_states_of_short_histories_are_enhanced(kind: Any) -> None:
    model = build(kind)
    assert model.user_limit == 3  # of lengths 2, 2, 2, 2, 5, 5, 7 the quantile is 3.8
    for history in ([1, 2], [3, 2, 5], [3, 2, 5, 1], [1, 2, 3, 1, 2, 5]):
        expected = plain(model, history)
        if len(history) <= 3:
            expected = expected + model.user_branch(expected)
        found = model.represent(torch.tensor([history]), torch.tensor([len(history)]))[0]
        torch.testing.assert_close(found, expected)


@kinds
def test_tail_items_get_the_vectors_that_their_contexts_say(kind: Any) -> None:
    model = build(kind)
    assert model.tail is not None
    tails = model.tail.tail_items.tolist()
    assert 1 not in tails
    assert {4, 5, 6} <= set(tails)
    before = model.item_table.detach().clone()
    model.begin_epoch(0)
    assert torch.equal(model.item_table, before)
    expected = before.clone()
    for item in tails:
        states = torch.stack([plain(model, context) for context in contexts(item)])
        expected[item] = model.item_branch(states.mean(0)).detach()
    model.train()
    model.begin_epoch(45)
    torch.testing.assert_close(model.item_table.detach(), expected)
    assert model.training
    assert model.progress == 45 / model.settings.e_max
    model.begin_epoch(999)
    assert model.progress == 1


def weight(progress: float, beyond: int, span: int) -> float:
    return abs(math.sin(math.pi / 2 * progress + math.pi / (2 * span) * beyond))


@kinds
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_branch_of_users(kind: Any, progress: float) -> None:
    model = build(kind)
    model.progress = progress
    users = np.array([3, 0])
    torch.manual_seed(1)
    few = 1 + (torch.rand(2).numpy() * 2).astype(int)
    errors = []
    for user, n in zip(users, few, strict=True):
        history = SEQUENCES[user][-MAX_LENGTH:]
        wrong = model.user_branch(plain(model, history[-n:])) - plain(model, history)
        errors.append(weight(progress, len(history) - 4, MAX_LENGTH - 4) * wrong.square().mean())
    torch.manual_seed(1)
    torch.testing.assert_close(model.user_loss(users), torch.stack(errors).mean())


@kinds
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_the_branch_of_items(kind: Any, progress: float) -> None:
    model = build(kind)
    assert model.tail is not None
    model.progress = progress
    items = model.tail.head_items[::-1].copy()
    torch.manual_seed(2)
    ends, owner = model.tail.draw_contexts(items)
    starts, errors = model.tail.table.offsets, []
    for nth, item in enumerate(items):
        states = []
        for end in ends[owner == nth]:
            first = starts[np.searchsorted(starts, end, side="right") - 1]
            state = plain(model, model.tail.table.items[first : end + 1].tolist())
            states.append(state + model.user_branch(state))
        wrong = model.item_branch(torch.stack(states).mean(0)) - model.item_table[item]
        beyond = len(contexts(int(item))) - model.tail.item_limit - 1
        errors.append(weight(progress, beyond, 50) * wrong.square().mean())
    torch.manual_seed(2)
    torch.testing.assert_close(model.item_loss(items), torch.stack(errors).mean())


def test_the_curriculum_begins_with_the_longest() -> None:
    model = build(MELTSASRec)
    wrong, beyond = torch.ones(1, 8), [np.array([0]), np.array([2])]
    weights = {}
    for progress in (0.0, 0.5, 1.0):
        model.progress = progress
        weights[progress] = [model._weighed(wrong, count, 2).item() for count in beyond]
    half = math.sqrt(0.5)
    assert weights[0.0] == pytest.approx([0, 1], abs=1e-6)
    assert weights[0.5] == pytest.approx([half, half])
    assert weights[1.0] == pytest.approx([1, 0], abs=1e-6)


def test_the_limit_is_part_of_a_checkpoint() -> None:
    model = build(MELTSASRec)
    other = MELTSASRec(N_ITEMS, MAX_LENGTH, model.settings).eval()
    other.load_state_dict(model.state_dict())
    query = torch.tensor([[1, 2]]), torch.tensor([2])
    assert torch.equal(other.represent(*query), model.represent(*query))


@pytest.mark.usefixtures("undrawn")
def test_every_epoch_begins_with_its_number(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(MELT, "begin_epoch", lambda model, epoch: begun.append(epoch))
    run("RaMELTSASRec", **settings, say=lambda line: None)
    assert begun == list(range(settings["epochs"]))
