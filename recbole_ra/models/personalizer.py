"""The personalizer of DR4SR+: how much each training target counts for the backbone that trains on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Personalizer(nn.Module):
    """``w = GumbelSoftmax(g(h), τ)_0`` with ``g`` an MLP D → D → 2 (METHOD 2); in evaluation without noise.

    Parameters
    ----------
    width : int
        Of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, 2)
        self.tau = nn.Parameter(torch.ones(()))

    def forward(self, states: Tensor) -> Tensor:
        """[T, D] -> weights in (0, 1), [T]."""
        logits = self.outer(F.relu(self.inner(states)))
        if self.training:
            uniform = torch.rand_like(logits).clamp(min=torch.finfo(logits.dtype).tiny)
            logits = logits - (-uniform.log()).log()
        return (logits / self.tau.clamp(min=1.0)).softmax(-1)[:, 0]
