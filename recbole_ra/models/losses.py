"""Losses over the full catalogue.

Shapes: ``T`` targets, ``D`` width, ``N`` items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# 85 rows of 12,000 float32 logits are 4 MB: they stay in a CPU's last-level cache between the three
# matrix products.
CPU_CHUNK_ELEMENTS = 1 << 20
GPU_CHUNK_ELEMENTS = 1 << 28


class _FusedSoftmax(torch.autograd.Function):
    """Cross-entropy of ``states @ table.T`` that never holds all logits.

    The gradients of a mean loss are known as soon as the logits are, so they are made in the
    forward pass, chunk by chunk; backward only scales them. Where derivatives of the gradients are
    wanted (``create_graph=True``) backward computes them anew from the logits.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, skip_diagonal: bool) -> Tensor:
        n_targets, n_items = len(states), len(table)
        budget = CPU_CHUNK_ELEMENTS if states.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        chunk = max(16, budget // n_items)
        grad_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        grad_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        loss = states.new_zeros((), dtype=torch.float64)
        # One room for all chunks: logits, then probabilities, then the loss's slope.
        room = states.new_empty(min(chunk, n_targets), n_items)
        for first in range(0, n_targets, chunk):
            part = states[first : first + chunk]
            wanted = targets[first : first + chunk, None]
            slope = torch.mm(part, table.T, out=room[: len(part)])
            if skip_diagonal:
                slope.diagonal(first).fill_(float("-inf"))
            largest, logit = slope.amax(1), slope.gather(1, wanted).squeeze(1)
            torch.softmax(slope, 1, out=slope)
            # The largest probability is exp(0) over the normaliser, so the exponentials are made once.
            loss += (largest - slope.amax(1).log() - logit).sum(dtype=torch.float64)
            slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, -1.0))
            if grad_states is not None:
                torch.mm(slope, table, out=grad_states[first : first + chunk])
            if grad_table is not None:
                grad_table.addmm_(slope.T, part)
        ctx.save_for_backward(grad_states, grad_table, states, table, targets)
        ctx.skip_diagonal = skip_diagonal
        return (loss / n_targets).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_states, grad_table, states, table, targets = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Aliases: where one input was made from the other, only its own part is wanted here.
            aliases = states.view_as(states), table.view_as(table)
            loss = _plain_softmax_loss(*aliases, targets, skip_diagonal=ctx.skip_diagonal)
            wanted = [
                alias
                for alias, saved in zip(aliases, (grad_states, grad_table), strict=True)
                if saved is not None
            ]
            found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True))
            return (
                (None if grad_states is None else next(found)),
                (None if grad_table is None else next(found)),
                None,
                None,
            )
        scale = grad / len(states)
        return (
            None if grad_states is None else grad_states * scale,
            None if grad_table is None else grad_table * scale,
            None,
            None,
        )


def _plain_softmax_loss(states: Tensor, table: Tensor, targets: Tensor, *, skip_diagonal: bool) -> Tensor:
    logits = states @ table.T
    if skip_diagonal:
        logits = logits.masked_fill(
            torch.eye(len(states), dtype=torch.bool, device=states.device), float("-inf")
        )
    return F.cross_entropy(logits, targets)


def _softmax_loss(states: Tensor, table: Tensor, targets: Tensor, *, skip_diagonal: bool) -> Tensor:
    if torch.is_autocast_enabled(states.device.type) or not torch.is_grad_enabled():
        return _plain_softmax_loss(states, table, targets, skip_diagonal=skip_diagonal)
    return _FusedSoftmax.apply(states, table, targets, skip_diagonal)  # type: ignore[no-untyped-call]


def full_softmax(states: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the full catalogue (METHOD 0).

    Parameters
    ----------
    states : Tensor, shape [T, D]
    table : Tensor, shape [N, D]
        The item table; row 0 (padding) takes part, as in RecBole.
    targets : int64 Tensor, shape [T]

    Returns
    -------
    Tensor, shape []
    """
    return _softmax_loss(states, table, targets, skip_diagonal=False)


def bpr(states: Tensor, table: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009), RecBole's ``BPRLoss``.

    ``negatives``, shape [T], is another item for each target.
    """
    margin = (states * (table[targets] - table[negatives])).sum(-1)
    return -torch.log(1e-10 + torch.sigmoid(margin)).mean()


def info_nce(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of the same rows (DuoRec, eq. 9), dot-product similarity.

    Parameters
    ----------
    one, other : Tensor, shape [B, D]
        Row ``i`` of both views is a positive pair; the other ``2(B - 1)`` rows are negatives.
    temperature : float

    Returns
    -------
    Tensor, shape []
    """
    views = torch.cat([one, other])  # [2B, D]
    n = len(one)
    positive = torch.arange(2 * n, device=one.device).roll(n)
    return _softmax_loss(views / temperature, views, positive, skip_diagonal=True)
