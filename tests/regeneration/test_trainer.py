"""The regenerator as a model of RecBole's: its loss, its schedule, its validation."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_ra.regeneration.batches import TAU_MIN, PairBatch
from recbole_ra.regeneration.network import Regenerator
from recbole_ra.regeneration.trainer import DR4SR, imbalance
from recbole_ra.settings.declared import RegenerationSettings

SOURCES = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [2, 4, 6, 8]])
PATTERNS = torch.tensor([[1, 3], [5, 7], [4, 8]])


def model(**settings: float) -> DR4SR:
    torch.manual_seed(0)
    network = Regenerator(n_items=9, max_source=4, width=16, inner=16, dropout=0.0, n_latents=3)
    return DR4SR(network, RegenerationSettings(n_latents=3, **settings))


def test_imbalance_is_zero_where_all_spaces_are_used_alike() -> None:
    assert float(imbalance(torch.full((5,), 0.2))) == pytest.approx(0, abs=1e-6)
    assert float(imbalance(torch.tensor([0.0, 0, 1, 0, 0]))) == pytest.approx(math.log(5))
    assert float(imbalance(torch.ones(1))) == 0


def test_unused_spaces_leave_the_gradient_finite() -> None:
    usage = torch.tensor([0.0, 1.0, 0.0], requires_grad=True)
    imbalance(usage).backward()
    assert usage.grad is not None
    assert usage.grad.isfinite().all()
    assert usage.grad[1] > usage.grad[0]  # away from the space that has everything


@pytest.mark.parametrize("balance_weight", [0.0, 1.0])
def test_a_batch_that_chooses_one_space_trains_on(balance_weight: float) -> None:
    regenerator = model(balance_weight=balance_weight).train()
    promoter = [p for name, p in regenerator.named_parameters() if "choice" in name or "promoter" in name]
    assert promoter
    with torch.no_grad():
        for parameter in promoter:
            parameter.mul_(1e3)
    losses = regenerator.calculate_loss(PairBatch([(SOURCES[:1], PATTERNS[:1])], step=10**6))
    usage = regenerator.network.loss([(SOURCES[:1], PATTERNS[:1])], 0.1).usage
    assert (usage == 0).any()
    torch.stack(losses).sum().backward()
    for name, parameter in regenerator.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_the_loss_is_the_mean_of_each_term_with_its_weight() -> None:
    batch = PairBatch([(SOURCES[:1], PATTERNS[:1]), (SOURCES[1:], PATTERNS[1:])], step=0)
    plain = model().eval().requires_grad_(False)
    reconstruction, entropy, balance = plain.calculate_loss(batch)
    parts = plain.network.loss([(SOURCES, PATTERNS)], 1.0)
    assert float(reconstruction) == pytest.approx(float(parts.reconstruction) / 9, rel=1e-5)
    assert float(entropy) == pytest.approx(float(parts.entropy) / 3, rel=1e-5)
    other = model(balance_weight=3.0).eval().requires_grad_(False)
    weighted = other.calculate_loss(batch)
    assert [float(term) for term in weighted] == pytest.approx(
        [float(reconstruction), float(entropy), 3 * float(balance)], rel=1e-4
    )


def test_the_temperature_falls_with_the_steps() -> None:
    batches = [PairBatch([(SOURCES, PATTERNS)], step=step) for step in (0, 100, 10_000)]
    regenerator = model(balance_weight=0.0).eval().requires_grad_(False)
    entropies = [float(regenerator.calculate_loss(batch)[1]) for batch in batches]
    assert entropies == sorted(entropies, reverse=True)
    coldest = regenerator.network.loss([(SOURCES, PATTERNS)], TAU_MIN)
    assert entropies[-1] == pytest.approx(float(coldest.entropy) / 3, rel=1e-4)


@pytest.mark.parametrize("balance_weight", [0.0, 1.0])
def test_balance_keeps_the_spaces_in_use(balance_weight: float) -> None:
    regenerator = model(balance_weight=balance_weight).train()
    rng = torch.Generator().manual_seed(1)
    sources = torch.stack([torch.randperm(8, generator=rng)[:4] + 1 for _ in range(32)])
    patterns = sources[:, ::2]
    optimizer = torch.optim.Adam(regenerator.parameters(), lr=3e-3)
    for step in range(100):
        optimizer.zero_grad()
        torch.stack(regenerator.calculate_loss(PairBatch([(sources, patterns)], step))).sum().backward()
        optimizer.step()
    usage = regenerator.network.eval().loss([(sources, patterns)], 0.1).usage.detach() / 32
    perplexity = float(torch.special.entr(usage).sum().exp())
    assert perplexity > 2 if balance_weight else perplexity < 1.5
