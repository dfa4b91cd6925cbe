"""The running average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recbole_ra.training.average import WeightAverage


def test_average_is_the_exponential_mean_of_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.5)
    expected = model.weight.item()
    for step, value in enumerate([1.0, 2.0, 3.0, 4.0], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        decay = min(0.5, step / (step + 10))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0


def test_weights_come_back_after_an_error() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(7.0)

    def fail() -> None:
        with average.applied():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.weight.item() == 7.0


def test_a_restored_average_goes_on_as_the_unbroken_one() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    unbroken, half = WeightAverage(model, 0.9), WeightAverage(model, 0.9)

    def step(*averages: WeightAverage) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in averages:
            average.update()

    for _ in range(3):
        step(unbroken, half)
    restored = WeightAverage(model, 0.9)
    restored.load_state_dict(half.state_dict())
    step(unbroken, restored)
    for name, mean in unbroken.state_dict()["mean"].items():
        assert torch.equal(mean, restored.state_dict()["mean"][name])


def test_frozen_parameters_have_no_average() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert list(WeightAverage(model, 0.9).state_dict()["mean"]) == ["bias"]
