from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from losses_of_rows import assert_same, inputs, naive_info_nce
from recbole_ra.models import losses, softmax
from recbole_ra.models.history import ItemOffsets


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("rows", [1, 2, 8, 13])
def test_info_nce_equals_the_loop(rows: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CPU_CHUNK_ELEMENTS", 1)  # 26 views in chunks of 16
    one, other, _ = inputs(rows, rows, 4)
    assert_same(losses.info_nce(one, other, temperature), naive_info_nce(one, other, temperature), one, other)
    with torch.no_grad():
        torch.testing.assert_close(
            losses.info_nce(one, other, temperature), naive_info_nce(one, other, temperature)
        )


def test_bpr_is_that_of_recbole() -> None:
    import recbole_ra.core.compat  # noqa: F401  (before recbole)

    # isort: split
    from recbole.model.loss import BPRLoss

    states, table, targets = inputs(20, 9, 4)
    negatives = (targets + 1) % 9

    def scores() -> tuple[Tensor, Tensor]:
        return (states * table[targets]).sum(1), (states * table[negatives]).sum(1)

    positive, negative = scores()
    assert_same(losses.bpr(positive, negative[:, None]).mean(), BPRLoss()(*scores()), states, table)


def test_bpr_known_answer() -> None:
    found = losses.bpr(torch.tensor([6.0]), torch.tensor([[2.0]]))
    assert float(found) == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-5)


def test_bce_known_answer() -> None:
    found = losses.bce(torch.tensor([2.0]), torch.tensor([[0.0, -1.0]]))
    expected = -torch.sigmoid(torch.tensor(2.0)).log() - sum(
        (1 - torch.sigmoid(torch.tensor(score))).log() for score in (0.0, -1.0)
    )
    torch.testing.assert_close(found, expected[None])


def test_negatives_are_items_other_than_the_target() -> None:
    targets = torch.arange(1, 5).repeat(500)
    drawn = losses.draw_negatives(targets, 5, 3)
    assert drawn.shape == (2000, 3)
    assert not (drawn == targets[:, None]).any()
    assert drawn.unique().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", losses.LOSSES)
def test_weights_of_targets(kind: str) -> None:
    """Weights scale each target's loss, and gradients reach states, items and weights."""
    states, table, targets = inputs(20, 9, 4)
    bias = torch.randn(9, dtype=torch.float64)
    weights = torch.rand(20, dtype=torch.float64, requires_grad=True)

    def loss(**options: Any) -> Tensor:
        torch.manual_seed(3)
        return losses.next_item_loss(kind, states, table, targets, bias=bias, n_negatives=2, **options)

    def alone(row: int) -> Tensor:
        one_hot = torch.zeros(20, dtype=torch.float64)
        one_hot[row] = 20.0
        return loss(weights=one_hot)

    expected = torch.stack([weights[row] * alone(row) for row in range(20)]).mean()
    assert_same(loss(weights=weights), expected, states, table, weights)
    assert_same(loss(weights=torch.ones(20, dtype=torch.float64)), loss(), states, table)


@pytest.mark.parametrize("kind", ["BPR", "BCE"])
def test_offsets_reach_sampled_losses(kind: str) -> None:
    """They are a part of the score: of an item table with one column for each row they are the bias."""
    states, table, targets = inputs(20, 9, 4)
    every = torch.randn(9, dtype=torch.float64)
    offsets = ItemOffsets(torch.arange(9).expand(20, 9), every.expand(20, 9))

    def loss(**options: Any) -> Tensor:
        torch.manual_seed(3)
        return losses.next_item_loss(kind, states, table, targets.clamp(min=1), n_negatives=2, **options)

    assert_same(loss(offsets=offsets), loss(bias=every), states, table)
