from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.models import losses
from recbole_ra.models.history import ItemOffsets


def inputs(
    rows: int, items: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + items)
    states = torch.randn(rows, width, generator=generator, dtype=dtype).requires_grad_()
    table = torch.randn(items, width, generator=generator, dtype=dtype).requires_grad_()
    return states, table, torch.randint(0, items, (rows,), generator=generator)


def gradients(loss: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(3 * loss, parts)  # 3: the incoming gradient takes part


def assert_same(one: Tensor, other: Tensor, *parts: Tensor) -> None:
    torch.testing.assert_close(one, other)
    for a, b in zip(gradients(one, *parts), gradients(other, *parts), strict=True):
        torch.testing.assert_close(a, b)


# With room for one element a chunk is 16 rows: 15, 16, 17, 32 and 50 rows meet every kind of boundary.
@pytest.mark.parametrize("budget", [1, 1 << 20])
@pytest.mark.parametrize(
    ("rows", "items", "width"), [(1, 2, 1), (15, 9, 4), (16, 9, 4), (17, 9, 4), (32, 3, 8), (50, 40, 5)]
)
def test_full_softmax_is_cross_entropy(
    rows: int, items: int, width: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CPU_CHUNK_ELEMENTS", budget)
    states, table, targets = inputs(rows, items, width)
    assert_same(
        losses.full_softmax(states, table, targets), F.cross_entropy(states @ table.T, targets), states, table
    )


def test_full_softmax_of_large_scores_stays_finite() -> None:
    states, table, targets = inputs(20, 9, 4, torch.float32)
    loss = losses.full_softmax(1e4 * states, table, targets)
    torch.testing.assert_close(loss, F.cross_entropy(1e4 * states @ table.T, targets))
    assert all(torch.isfinite(part).all() for part in gradients(loss, states, table))


def test_full_softmax_without_gradients() -> None:
    states, table, targets = inputs(20, 9, 4)
    with torch.no_grad():
        expected = F.cross_entropy(states @ table.T, targets)
        torch.testing.assert_close(losses.full_softmax(states, table, targets), expected)
    one_sided = losses.full_softmax(states, table.detach(), targets)
    torch.testing.assert_close(one_sided, expected)
    (found,) = torch.autograd.grad(one_sided, states)
    torch.testing.assert_close(
        found, torch.autograd.grad(F.cross_entropy(states @ table.T, targets), states)[0]
    )
    other = losses.full_softmax(states.detach(), table, targets)
    (found,) = torch.autograd.grad(other, table)
    torch.testing.assert_close(
        found, torch.autograd.grad(F.cross_entropy(states @ table.T, targets), table)[0]
    )


@pytest.mark.parametrize("encoded", [torch.float32, torch.bfloat16])
def test_full_softmax_under_autocast(encoded: torch.dtype) -> None:
    """Mixed precision: near the exact loss and gradients, and sums over chunks are not rounded."""
    states, table, targets = inputs(700, 9, 4, torch.float32)
    items = torch.arange(1, 4).repeat(700, 1)
    values = torch.randn(700, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = torch.rand(700, generator=torch.Generator().manual_seed(2)).requires_grad_()
    parts = (states, table, values, weights)
    offsets = ItemOffsets(items, values)
    expected = losses.full_softmax(states, table, targets, weights, offsets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = ItemOffsets(items, values.to(encoded))
        loss = losses.full_softmax(states.to(encoded), table, targets, weights, halved)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0.01)
    for found, exact in zip(gradients(loss, *parts), gradients(expected, *parts), strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.02 * exact.norm()


def naive_info_nce(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """One row after another: its own partner against everything else but itself."""
    views, n = torch.cat([one, other]), len(one)
    total = one.new_zeros(())
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        scores = {j: views[i] @ views[j] / temperature for j in range(2 * n) if j != i}
        total = total - scores[partner] + torch.stack(list(scores.values())).logsumexp(0)
    return total / (2 * n)


@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_second_derivatives(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are wanted for hypergradients; the gradients made in the forward pass would be constants there."""
    monkeypatch.setattr(losses, "CPU_CHUNK_ELEMENTS", budget)  # 24 rows, 22 views, in chunks of 16
    states, table, targets = inputs(24, 9, 4)

    def curvature(loss: Tensor) -> tuple[Tensor, ...]:
        slopes = torch.autograd.grad(loss * states.square().sum(), (states, table), create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (states, table))

    def assert_same_curvature(one: Tensor, other: Tensor) -> None:
        for a, b in zip(curvature(one), curvature(other), strict=True):
            torch.testing.assert_close(a, b)

    assert_same_curvature(
        losses.full_softmax(states, table, targets), F.cross_entropy(states @ table.T, targets)
    )

    def pair() -> tuple[Tensor, Tensor]:
        return states[:11] @ table.T, states[11:22] @ table.T

    assert_same_curvature(losses.info_nce(*pair(), 0.3), naive_info_nce(*pair(), 0.3))
    half = losses.full_softmax(states, table.detach(), targets)
    (slope,) = torch.autograd.grad(half, states, create_graph=True)
    (found,) = torch.autograd.grad(slope.square().sum(), states)
    (plain,) = torch.autograd.grad(
        F.cross_entropy(states @ table.detach().T, targets), states, create_graph=True
    )
    torch.testing.assert_close(found, torch.autograd.grad(plain.square().sum(), states)[0])


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("rows", [1, 2, 8, 13])
def test_info_nce_equals_the_loop(rows: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CPU_CHUNK_ELEMENTS", 1)  # 26 views in chunks of 16
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


def some_offsets(rows: int, items: int) -> ItemOffsets:
    """Two items of each row, the first of them often the target; the second row has one."""
    _, _, targets = inputs(rows, items, 4)
    chosen = torch.stack([targets, (targets + 3) % items], 1)
    chosen[1, 1] = 0
    values = torch.randn(rows, 2, dtype=torch.float64) * (chosen != 0)
    return ItemOffsets(chosen, values.requires_grad_())


@pytest.mark.parametrize("budget", [1, 1 << 20])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_weights_and_offsets_have_second_derivatives(
    budget: int, with_offsets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an implicit gradient of weights asks for: the slope of a slope."""
    monkeypatch.setattr(losses, "CPU_CHUNK_ELEMENTS", budget)  # chunks of 16
    states, table, targets = inputs(40, 9, 4)
    weights = torch.rand(40, dtype=torch.float64, requires_grad=True)
    offsets = some_offsets(40, 9) if with_offsets else None
    wanted = [states, table, weights, *([] if offsets is None else [offsets.values])]

    def slopes(loss: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(loss, states, create_graph=True)
        return torch.cat([part.flatten() for part in torch.autograd.grad(slope.square().sum(), wanted)])

    logits = states @ table.T
    if offsets is not None:
        logits = logits.scatter_add(1, offsets.items, offsets.values)
    plain = (weights * F.cross_entropy(logits, targets, reduction="none")).mean()
    torch.testing.assert_close(
        slopes(losses.full_softmax(states, table, targets, weights, offsets)), slopes(plain)
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_offsets_of_a_few_items(budget: int, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CPU_CHUNK_ELEMENTS", budget)
    states, table, targets = inputs(40, 9, 4)
    offsets = some_offsets(40, 9)
    weights = torch.rand(40, dtype=torch.float64) if weighted else None
    logits = (states @ table.T).scatter_add(1, offsets.items, offsets.values)
    each = F.cross_entropy(logits, targets, reduction="none")
    expected = each.mean() if weights is None else (weights * each).mean()
    found = losses.next_item_loss("CE", states, table, targets, weights=weights, offsets=offsets)
    assert_same(found, expected, states, table, offsets.values)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_label_smoothing_is_that_of_torch(
    budget: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CPU_CHUNK_ELEMENTS", budget)
    states, table, targets = inputs(20, 9, 4)
    weights = torch.rand(20, dtype=torch.float64).requires_grad_() if weighted else None
    parts = (states, table) if weights is None else (states, table, weights)
    smoothed = losses.next_item_loss("CE", states, table, targets, weights=weights, smoothing=0.2)
    each = F.cross_entropy(states @ table.T, targets, reduction="none", label_smoothing=0.2)
    expected = (each if weights is None else weights * each).mean()
    assert_same(smoothed, expected, *parts)
    curved = []
    for loss in (
        losses.next_item_loss("CE", states, table, targets, smoothing=0.2),
        F.cross_entropy(states @ table.T, targets, label_smoothing=0.2),
    ):
        (slope,) = torch.autograd.grad(loss, table, create_graph=True)
        curved += torch.autograd.grad(slope.square().sum(), states)
    torch.testing.assert_close(*curved)


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
