"""The softmax over all items against torch's, with slopes and slopes of slopes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losses_of_rows import assert_same, gradients, inputs, naive_info_nce, some_offsets
from recbole_ra.models import softmax
from recbole_ra.models.history import ItemOffsets
from recbole_ra.models.losses import info_nce, next_item_loss
from recbole_ra.models.softmax import full_softmax


# With room for one element a chunk is 16 rows: 15, 16, 17, 32 and 50 rows meet every kind of boundary.
@pytest.mark.parametrize("budget", [1, 1 << 20])
@pytest.mark.parametrize(
    ("rows", "items", "width"), [(1, 2, 1), (15, 9, 4), (16, 9, 4), (17, 9, 4), (32, 3, 8), (50, 40, 5)]
)
def test_full_softmax_is_cross_entropy(
    rows: int, items: int, width: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "CPU_CHUNK_ELEMENTS", budget)
    states, table, targets = inputs(rows, items, width)
    assert_same(
        full_softmax(states, table, targets), F.cross_entropy(states @ table.T, targets), states, table
    )


def test_full_softmax_of_large_scores_stays_finite() -> None:
    states, table, targets = inputs(20, 9, 4, torch.float32)
    loss = full_softmax(1e4 * states, table, targets)
    torch.testing.assert_close(loss, F.cross_entropy(1e4 * states @ table.T, targets))
    assert all(torch.isfinite(part).all() for part in gradients(loss, states, table))


def test_full_softmax_without_gradients() -> None:
    states, table, targets = inputs(20, 9, 4)
    with torch.no_grad():
        expected = F.cross_entropy(states @ table.T, targets)
        torch.testing.assert_close(full_softmax(states, table, targets), expected)
    one_sided = full_softmax(states, table.detach(), targets)
    torch.testing.assert_close(one_sided, expected)
    (found,) = torch.autograd.grad(one_sided, states)
    torch.testing.assert_close(
        found, torch.autograd.grad(F.cross_entropy(states @ table.T, targets), states)[0]
    )
    other = full_softmax(states.detach(), table, targets)
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
    expected = full_softmax(states, table, targets, weights, offsets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved = ItemOffsets(items, values.to(encoded))
        loss = full_softmax(states.to(encoded), table, targets, weights, halved)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0.01)
    for found, exact in zip(gradients(loss, *parts), gradients(expected, *parts), strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_second_derivatives(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are wanted for hypergradients; the gradients made in the forward pass would be constants there."""
    monkeypatch.setattr(softmax, "CPU_CHUNK_ELEMENTS", budget)  # 24 rows, 22 views, in chunks of 16
    states, table, targets = inputs(24, 9, 4)

    def curvature(loss: Tensor) -> tuple[Tensor, ...]:
        slopes = torch.autograd.grad(loss * states.square().sum(), (states, table), create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), (states, table))

    def assert_same_curvature(one: Tensor, other: Tensor) -> None:
        for a, b in zip(curvature(one), curvature(other), strict=True):
            torch.testing.assert_close(a, b)

    assert_same_curvature(full_softmax(states, table, targets), F.cross_entropy(states @ table.T, targets))

    def pair() -> tuple[Tensor, Tensor]:
        return states[:11] @ table.T, states[11:22] @ table.T

    assert_same_curvature(info_nce(*pair(), 0.3), naive_info_nce(*pair(), 0.3))
    half = full_softmax(states, table.detach(), targets)
    (slope,) = torch.autograd.grad(half, states, create_graph=True)
    (found,) = torch.autograd.grad(slope.square().sum(), states)
    (plain,) = torch.autograd.grad(
        F.cross_entropy(states @ table.detach().T, targets), states, create_graph=True
    )
    torch.testing.assert_close(found, torch.autograd.grad(plain.square().sum(), states)[0])


@pytest.mark.parametrize("budget", [1, 1 << 20])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_weights_and_offsets_have_second_derivatives(
    budget: int, with_offsets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an implicit gradient of weights asks for: the slope of a slope."""
    monkeypatch.setattr(softmax, "CPU_CHUNK_ELEMENTS", budget)  # chunks of 16
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
    torch.testing.assert_close(slopes(full_softmax(states, table, targets, weights, offsets)), slopes(plain))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_offsets_of_a_few_items(budget: int, weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CPU_CHUNK_ELEMENTS", budget)
    states, table, targets = inputs(40, 9, 4)
    offsets = some_offsets(40, 9)
    weights = torch.rand(40, dtype=torch.float64) if weighted else None
    logits = (states @ table.T).scatter_add(1, offsets.items, offsets.values)
    each = F.cross_entropy(logits, targets, reduction="none")
    expected = each.mean() if weights is None else (weights * each).mean()
    found = next_item_loss("CE", states, table, targets, weights=weights, offsets=offsets)
    assert_same(found, expected, states, table, offsets.values)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_label_smoothing_is_that_of_torch(
    budget: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "CPU_CHUNK_ELEMENTS", budget)
    states, table, targets = inputs(20, 9, 4)
    weights = torch.rand(20, dtype=torch.float64).requires_grad_() if weighted else None
    parts = (states, table) if weights is None else (states, table, weights)
    smoothed = next_item_loss("CE", states, table, targets, weights=weights, smoothing=0.2)
    each = F.cross_entropy(states @ table.T, targets, reduction="none", label_smoothing=0.2)
    expected = (each if weights is None else weights * each).mean()
    assert_same(smoothed, expected, *parts)
    curved = []
    for loss in (
        next_item_loss("CE", states, table, targets, smoothing=0.2),
        F.cross_entropy(states @ table.T, targets, label_smoothing=0.2),
    ):
        (slope,) = torch.autograd.grad(loss, table, create_graph=True)
        curved += torch.autograd.grad(slope.square().sum(), states)
    torch.testing.assert_close(*curved)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_every_second_derivative_by_finite_differences(
    smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of states, table, weights and offsets, and of a factor before the loss that they shape as well."""
    monkeypatch.setattr(softmax, "CPU_CHUNK_ELEMENTS", 1)
    states, table, targets = inputs(20, 5, 3)
    weights = torch.rand(20, dtype=torch.float64, requires_grad=True)
    offsets = some_offsets(20, 5)

    def loss(states: Tensor, table: Tensor, weights: Tensor, values: Tensor) -> Tensor:
        given = ItemOffsets(offsets.items, values)
        return states.square().sum() * full_softmax(
            states, table, targets, weights, given, smoothing=smoothing
        )

    assert torch.autograd.gradgradcheck(loss, (states, table, weights, offsets.values))


def test_second_derivatives_under_autocast() -> None:
    """Near the exact products with the Hessian."""
    states, table, targets = inputs(700, 9, 4, torch.float32)
    weights = torch.rand(700, generator=torch.Generator().manual_seed(2)).requires_grad_()
    direction = torch.randn(700, 4, generator=torch.Generator().manual_seed(3))

    def products() -> tuple[Tensor, ...]:
        loss = full_softmax(states, table, targets, weights, smoothing=0.1)
        (slope,) = torch.autograd.grad(loss, states, create_graph=True)
        return torch.autograd.grad(slope, (states, table, weights), direction)

    expected = products()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = products()
    for part, exact in zip(found, expected, strict=True):
        assert part.dtype == torch.float32
        assert (part - exact).norm() < 0.02 * exact.norm()


def test_slopes_of_slopes_hold_no_logits() -> None:
    """What autograd keeps is linear in rows and items, not their product."""
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    states, table, targets = inputs(400, 300, 4)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = full_softmax(states, table, targets)
        (slope,) = torch.autograd.grad(loss, states, create_graph=True)
        slope.square().sum().backward()
    assert kept
    assert max(kept) <= states.numel()


def test_slopes_of_a_large_catalogue_do_not_vanish_in_float16() -> None:
    table = torch.zeros(1 << 20, 8)
    table[1000:, 0] = -1.0
    states = torch.zeros(2, 8)
    states[:, 0] = 6.0
    targets = torch.tensor([1, 2])

    def slopes(half: bool) -> list[Tensor]:
        leaves = [states.clone().requires_grad_(), table.clone().requires_grad_()]
        with torch.autocast("cpu", torch.float16, enabled=half):
            full_softmax(*leaves, targets).backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    exact, found = slopes(half=False), slopes(half=True)
    assert torch.allclose(found[0][:, 0], exact[0][:, 0], rtol=5e-3)
    assert torch.allclose(found[1][1000:, 0], exact[1][1000:, 0], rtol=5e-3)
