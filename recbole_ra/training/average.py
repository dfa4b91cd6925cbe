"""A running average of weights: what dropout and small batches shake is evened out.

Polyak averaging with an exponential window, as in Tarvainen & Valpola (2017). The average is what
is validated and kept; the optimiser goes on with the weights themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the trainable parameters of a model.

    Parameters
    ----------
    model : nn.Module
    decay : float in [0, 1)
        Weight of the past at each step; the first steps forget faster, so that the random
        initialisation has no part in the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._mean = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one step of the optimiser."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for a while."""
        live = {name: p.detach().clone() for name, p in self._live.items()}
        self._copy(self._mean)
        try:
            yield
        finally:
            self._copy(live)

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._live.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        return {"steps": self.steps, "mean": self._mean}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue where :meth:`state_dict` was taken; from None, begin with the weights as they are."""
        self.steps = 0 if state is None else state["steps"]
        for name, mean in self._mean.items():
            mean.copy_(self._live[name] if state is None else state["mean"][name])
