"""Gradients through the optimum of another loss, by implicit differentiation (METHOD 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hypergradient(
    dev_loss: Tensor,
    train_loss: Tensor,
    lower: Sequence[Tensor],
    upper: Sequence[Tensor],
    *,
    terms: int,
    step: float,
) -> list[Tensor]:
    """Approximate the slope of ``dev_loss(θ*(φ))`` in ``φ``, where ``θ*`` minimises ``train_loss(θ, φ)``.

    ``−∇_θ L_dev Σ_{n=0}^{terms} (I − step ∇²_θ L_train)^n step ∇_φ∇_θ L_train``: the inverse of the Hessian
    as a Neumann series, of vector–Hessian products alone.

    Parameters
    ----------
    dev_loss : Tensor, shape []
        A function of ``lower``.
    train_loss : Tensor, shape []
        A function of ``lower`` and ``upper`` that can be differentiated twice.
    lower, upper : sequence of Tensor
        ``θ`` and ``φ``.
    terms : int
        Of the series, beside the first.
    step : float
        Below 2 over the largest eigenvalue of the Hessian, for the series to converge.

    Returns
    -------
    list of Tensor
        Shapes as ``upper``.
    """
    lower, upper = list(lower), list(upper)
    vector = _gradients(dev_loss, lower)
    slope = torch.autograd.grad(train_loss, lower, create_graph=True, allow_unused=True)
    used = [place for place, part in enumerate(slope) if part is not None and part.requires_grad]
    slopes = [slope[place] for place in used]

    def product(wanted: list[Tensor], direction: list[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(
            slopes, wanted, [direction[place] for place in used], retain_graph=True, allow_unused=True
        )
        return [torch.zeros_like(x) if part is None else part for x, part in zip(wanted, found, strict=True)]

    total = [part.clone() for part in vector]
    for _ in range(terms):
        curved = product(lower, vector)
        vector = [part - step * bend for part, bend in zip(vector, curved, strict=True)]
        total = [before + part for before, part in zip(total, vector, strict=True)]
    return [-step * part for part in product(upper, total)]


def _gradients(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, of, allow_unused=True)
    return [torch.zeros_like(x) if part is None else part for x, part in zip(of, found, strict=True)]
