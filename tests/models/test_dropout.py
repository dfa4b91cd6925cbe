from __future__ import annotations

import pytest
import torch

from recbole_ra.models.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_rate_and_mean(p: float) -> None:
    torch.manual_seed(3)
    n, rate = 400_000, round(p * 256) / 256
    dropped = dropout(torch.ones(n), p, True)
    zeros = float((dropped == 0).double().mean())
    assert zeros == pytest.approx(rate, abs=5 * (rate * (1 - rate) / n) ** 0.5)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)
    assert abs(rate - p) <= 1 / 512


def test_every_element_is_drawn_on_its_own() -> None:
    """All eight bytes of a 64-bit draw are used, and none follows another."""
    torch.manual_seed(4)
    kept = (dropout(torch.ones(80_000), 0.5, True) > 0).double().view(-1, 8)
    torch.testing.assert_close(kept.mean(0), torch.full((8,), 0.5).double(), atol=0.025, rtol=0)
    assert torch.corrcoef(kept.T).triu(1).abs().max() < 0.05


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (9,), (3, 5, 7), (0, 4)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    found = dropout(x, 0.5, True)
    assert found.shape == x.shape
    assert ((found == 0) | (found == 2 * x)).all()


def test_gradients_pass_where_values_passed() -> None:
    x = torch.randn(6, 50, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(50, 6, dtype=torch.float64)
    dropped = dropout(x.T, 0.25, True)
    assert torch.equal(dropped != 0, torch.isclose(dropped, x.T / 0.75) & (dropped != 0))
    (found,) = torch.autograd.grad((dropped * slope).sum(), x)
    torch.testing.assert_close(found, torch.where(dropped != 0, slope / 0.75, 0).T)


def test_evaluation_and_zero_change_nothing() -> None:
    x = torch.randn(9)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    assert Dropout(0.5).eval()(x) is x


def test_one_drops_everything() -> None:
    x = torch.randn(9, requires_grad=True)
    dropped = Dropout(1.0).train()(x)
    assert (dropped == 0).all()
    assert (torch.autograd.grad(dropped.sum(), x)[0] == 0).all()


def test_the_seed_decides() -> None:
    x = torch.ones(100)

    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(x, 0.5, True)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_only_probabilities(p: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        Dropout(p)
