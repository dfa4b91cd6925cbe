"""Implicit gradients: against the exact one, and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.models.gru4rec import GRU4Rec, GRU4RecSettings
from recbole_ra.models.personalizer import Personalizer
from recbole_ra.models.sasrec import SASRec, SASRecSettings
from recbole_ra.training.hypergradient import hypergradient


@pytest.mark.parametrize("terms", [0, 1, 3, 2000])
def test_a_quadratic_problem(terms: int) -> None:
    """``θ*(φ) = A⁻¹ B φ``: the slope is known, and so is that of a truncated series."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factor = draw(4, 4)
    a, b, wanted = factor @ factor.T + torch.eye(4), draw(4, 3), draw(4)
    theta, phi = draw(4).requires_grad_(), draw(3).requires_grad_()
    train = 0.5 * theta @ a @ theta - theta @ b @ phi
    dev = 0.5 * (theta - wanted).square().sum()
    (found,) = hypergradient(dev, train, [theta], [phi], terms=terms, step=0.05)
    slope = (theta - wanted).detach()
    series = sum(torch.linalg.matrix_power(torch.eye(4) - 0.05 * a, n) for n in range(terms + 1)) * 0.05
    torch.testing.assert_close(found, b.T @ series @ slope)
    if terms == 2000:
        torch.testing.assert_close(found, b.T @ torch.linalg.solve(a, slope))


def test_what_a_loss_does_not_read() -> None:
    theta, idle, phi = (torch.ones(2, requires_grad=True) for _ in range(3))
    found = hypergradient(
        theta.sum(), (theta.square() * phi).sum(), [theta, idle], [phi, idle], terms=2, step=0.1
    )
    assert found[0].abs().sum() > 0
    assert (found[1] == 0).all()


@pytest.mark.parametrize("kind", ["SASRec", "GRU4Rec"])
def test_weights_of_targets_by_finite_differences(kind: str) -> None:
    """Without further terms it is the slope of the loss after one small step of the backbone."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    table = SequenceTable.from_arrays(rng.integers(1, 9, 40), np.arange(0, 41, 5), 9)
    if kind == "SASRec":
        without = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
        model = SASRec(9, 6, SASRecSettings(hidden_size=8, inner_size=8, **without))
    else:
        model = GRU4Rec(9, 6, GRU4RecSettings(embedding_size=8, hidden_size=8, dropout_prob=0))
    model, personalizer = model.double(), Personalizer(8).double().eval()
    feed = SequenceBatches(Prefixes.all_of(table, 6), batch_size=12, targets_per_pass=3, n_groups=2, seed=0)
    train, dev, *_ = feed
    lower, upper = list(model.parameters()), [personalizer.inner.weight]

    def train_loss() -> torch.Tensor:
        train.weigh = lambda states: personalizer(states.detach())
        return model.calculate_loss(train)

    step = 1e-4
    found = hypergradient(model.calculate_loss(dev), train_loss(), lower, upper, terms=0, step=step)

    def after_a_step() -> float:
        slopes = torch.autograd.grad(train_loss(), lower, allow_unused=True)
        with torch.no_grad():
            before = [parameter.clone() for parameter in lower]
            for parameter, slope in zip(lower, slopes, strict=True):
                if slope is not None:
                    parameter -= step * slope
            loss = float(model.calculate_loss(dev))
            for parameter, value in zip(lower, before, strict=True):
                parameter.copy_(value)
        return loss

    flat = personalizer.inner.weight.data.view(-1)
    for place in (0, 13, 40):
        old, h = float(flat[place]), 1e-3
        flat[place] = old + h
        above = after_a_step()
        flat[place] = old - h
        below = after_a_step()
        flat[place] = old
        expected = (above - below) / (2 * h)
        assert float(found[0].view(-1)[place]) == pytest.approx(expected, rel=0.02, abs=1e-12)
