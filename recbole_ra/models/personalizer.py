"""The personalizer of DR4SR+: how much each training target counts for the backbone that trains on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_TAU = 1.0
"""Where τ is clipped below (METHOD 2)."""


class Personalizer(nn.Module):
    """``w = GumbelSoftmax(g(h), τ)_0`` with ``g`` an MLP D → D → 2 (METHOD 2); in evaluation without noise.

    Parameters
    ----------
    width : int
        Of the states.
    variant : {"paper", "released"}
        ``paper``: τ is learned, from 1, and clipped below at 1. ``released``: τ stays 10, and ``g`` is drawn
        so small that all weights begin at a half.

    Attributes
    ----------
    moves : int64, shape []
        Steps of the upper level that it has taken.
    """

    moves: Tensor

    def __init__(self, width: int, variant: str = "paper") -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, 2)
        released = variant == "released"
        self.tau = nn.Parameter(torch.tensor(10.0 if released else LEAST_TAU), requires_grad=not released)
        self.register_buffer("moves", torch.zeros((), dtype=torch.int64))
        if released:
            for layer in (self.inner, self.outer):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def clip(self) -> None:
        """Put τ back to where it is clipped; below it no slope would reach it any more."""
        self.tau.clamp_(min=LEAST_TAU)

    def forward(self, states: Tensor) -> Tensor:
        """[T, D] -> weights in (0, 1), [T]."""
        logits = self.outer(F.relu(self.inner(states)))
        if self.training:
            uniform = torch.rand_like(logits).clamp(min=torch.finfo(logits.dtype).tiny)
            logits = logits - (-uniform.log()).log()
        return (logits / self.tau.clamp(min=LEAST_TAU)).softmax(-1)[:, 0]
