"""A running average of weights: what dropout and small batches shake is evened out.

Polyak averaging with an exponential window, as in Tarvainen & Valpola (2017), corrected for its start as
Adam's moments are (Kingma & Ba, 2015, section 3). The average is what is validated and kept; the optimiser
goes on with the weights themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of the trainable parameters of a model.

    After ``t`` steps it is ``sum_i decay^(t - i) w_i / sum_i decay^(t - i)`` over the weights ``w_1 .. w_t``:
    the random initialisation has no part in it, whatever the decay.

    Parameters
    ----------
    model : nn.Module
    decay : float in [0, 1)
        Weight of the past at each step.
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
        share = (1 - self.decay) / (1 - self.decay**self.steps)  # 1 at the first step
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), share)

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
