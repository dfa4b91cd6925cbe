"""The running average of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recbole_ra.training.average import WeightAverage


@pytest.mark.parametrize("decay", [0.5, 0.998, 0.99999])
def test_average_is_the_exponential_mean_of_the_weights_since_the_first_step(decay: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay)
    values = np.arange(1.0, 31.0)
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
    weights = decay ** np.arange(len(values))[::-1]
    with average.applied():
        assert model.weight.item() == pytest.approx(np.average(values, weights=weights), rel=1e-5)
    assert model.weight.item() == values[-1]


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
