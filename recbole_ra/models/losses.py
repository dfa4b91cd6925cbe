"""Losses of next-item prediction, and the contrastive loss.

Shapes: ``T`` targets, ``S`` negatives per target, ``D`` width, ``N`` items.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.core.setting import setting
from recbole_ra.models.history import ItemOffsets

# 85 rows of 12,000 float32 logits are 4 MB: they stay in a CPU's last-level cache between the three
# matrix products.
CPU_CHUNK_ELEMENTS = 1 << 20
GPU_CHUNK_ELEMENTS = 1 << 28


LOSSES = ("CE", "BPR", "BCE")
"""Cross-entropy over the catalogue, and two losses that compare with sampled negatives."""


@dataclass(frozen=True)
class LossSettings:
    """What a backbone is trained by."""

    loss_type: str = setting(
        "CE",
        "cross-entropy over the catalogue, or BPR or BCE with sampled negatives",
        choices=LOSSES,
        shapes="backbone raft",
        expert=True,
    )
    n_negatives: int = setting(
        1, "items that BPR and BCE compare a target with", low=1, shapes="backbone raft", expert=True
    )
    label_smoothing: float = setting(
        0.0,
        "share of a target's probability that CE spreads over all items",
        low=0,
        high=1,
        shapes="backbone",
        expert=True,
    )


def next_item_loss(
    kind: str,
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
    offsets: ItemOffsets | None = None,
    n_negatives: int = 1,
    smoothing: float = 0.0,
) -> Tensor:
    """Compute the loss of predicting the next items: the mean over targets of weight times loss.

    Parameters
    ----------
    kind : {"CE", "BPR", "BCE"}
        ``CE``: cross-entropy over the full catalogue (METHOD 0). ``BPR``: Bayesian personalised ranking
        (Rendle et al. 2009), as RecBole's ``BPRLoss``. ``BCE``: binary cross-entropy of the target against
        sampled negatives (SASRec, eq. 7).
    states : Tensor, shape [T, D]
    table : Tensor, shape [N, D]
        The item table; row 0 (padding) takes part in ``CE``, as in RecBole, and is never a negative.
    targets : int64 Tensor, shape [T]
    bias : Tensor, shape [N], optional
        Constant part of each item's score.
    weights : Tensor, shape [T], optional
        Of the targets; gradients reach them.
    offsets : ItemOffsets, optional
        What is added to the scores of a few items of each row; gradients reach their values.
    n_negatives : int
        Uniform items other than the target that ``BPR`` and ``BCE`` compare each target with; drawn from
        torch's global generator.
    smoothing : float
        Share of a target's probability that ``CE`` spreads evenly over the table (label smoothing, Szegedy
        et al., CVPR 2016).

    Returns
    -------
    Tensor, shape []
    """
    if bias is not None:
        states = torch.cat([states, states.new_ones(len(states), 1)], 1)
        table = torch.cat([table, bias[:, None]], 1)
    if kind == "CE":
        return full_softmax(states, table, targets, weights, offsets, smoothing)
    negatives = draw_negatives(targets, len(table), n_negatives)
    compared = torch.cat([targets[:, None], negatives], 1)  # [T, 1 + S]
    scores = (states[:, None] * table[compared]).sum(-1)
    if offsets is not None:
        scores = scores + offsets.of(compared)
    if kind == "BPR":
        losses = bpr(scores[:, 0], scores[:, 1:])
    elif kind == "BCE":
        losses = bce(scores[:, 0], scores[:, 1:])
    else:
        raise ValueError(f"loss {kind!r} must be one of {', '.join(LOSSES)}")
    return (losses if weights is None else weights * losses).mean()


def draw_negatives(targets: Tensor, n_items: int, n_negatives: int = 1) -> Tensor:
    """Draw uniform items other than the target, int64 [T, S]; ``n_items`` counts padding and is above 2."""
    shape = (len(targets), n_negatives)
    drawn = torch.randint(1, n_items - 1, shape, device=targets.device)
    return drawn + (drawn >= targets[:, None])


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute ``-log sigmoid(positive - negative)`` of scores [T], [T, S], the mean over negatives, [T]."""
    return -torch.log(1e-10 + torch.sigmoid(positive[:, None] - negative)).mean(1)


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute ``-log sigmoid(positive) - Σ log(1 - sigmoid(negative))`` of scores [T], [T, S], shape [T]."""
    return F.softplus(-positive) + F.softplus(negative).sum(1)


_HALF: ContextVar[torch.dtype | None] = ContextVar("half", default=None)


@contextlib.contextmanager
def half_in_softmax_alone(device: torch.device) -> Iterator[None]:
    """On a CPU leave mixed precision to the products of the softmax; other devices gain from the rest too.

    On a CPU each product of half precision is compiled for its shape, and hardly two groups of histories
    have one shape: that took half of DuoRec's epoch. Sparse products of half precision do not exist there.
    """
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        yield
        return
    token = _HALF.set(torch.get_autocast_dtype("cpu"))
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        _HALF.reset(token)


class _FusedSoftmax(torch.autograd.Function):
    """Cross-entropy of ``states @ table.T`` that never holds all logits.

    The gradients of a mean loss are known as soon as the logits are, so they are made in the
    forward pass, chunk by chunk; backward only scales them. Where derivatives of the gradients are
    wanted (``create_graph=True``) backward computes them anew from the logits.

    With mixed precision only the three products are of half precision; probabilities and sums over
    chunks are float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        weights: Tensor | None,
        values: Tensor | None,
        items: Tensor | None,
        targets: Tensor,
        skip_diagonal: bool,
        half: torch.dtype | None,
        smoothing: float,
    ) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return _FusedSoftmax._forward(
                ctx, states, table, weights, values, items, targets, skip_diagonal, half, smoothing
            )

    @staticmethod
    def _forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        weights: Tensor | None,
        values: Tensor | None,
        items: Tensor | None,
        targets: Tensor,
        skip_diagonal: bool,
        half: torch.dtype | None,
        smoothing: float,
    ) -> Tensor:
        n_targets, n_items = len(states), len(table)
        chunk = _rows_at_once(states, table)
        grad_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        grad_table = torch.zeros_like(table) if ctx.needs_input_grad[1] else None
        losses = None if weights is None else torch.empty_like(weights)
        grad_values = torch.empty_like(values) if values is not None and ctx.needs_input_grad[3] else None
        total = states.new_zeros((), dtype=torch.float64)
        # One room for all chunks: logits, then probabilities, then the loss's slope.
        shape = (min(chunk, n_targets), n_items)
        room = states.new_empty(shape, dtype=states.dtype if half is None else torch.float32)
        factor = room if half is None else states.new_empty(shape, dtype=half)  # of the products
        left, right = states.to(factor.dtype), table.to(factor.dtype)
        for first in range(0, n_targets, chunk):
            part = left[first : first + chunk]
            wanted = targets[first : first + chunk, None]
            slope = room[: len(part)]
            factor = factor[: len(part)]
            torch.mm(part, right.T, out=factor)
            if half is not None:
                slope.copy_(factor)
            if skip_diagonal:
                slope.diagonal(first).fill_(float("-inf"))
            if items is not None and values is not None:
                slope.scatter_add_(
                    1, items[first : first + chunk], values[first : first + chunk].to(slope.dtype)
                )
            largest, logit = slope.amax(1), slope.gather(1, wanted).squeeze(1)
            if smoothing:
                logit = torch.lerp(logit, slope.mean(1), smoothing)
            torch.softmax(slope, 1, out=slope)
            # The largest probability is exp(0) over the normaliser, so the exponentials are made once.
            cost = largest - slope.amax(1).log() - logit
            slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, smoothing - 1.0))
            if smoothing:
                slope.sub_(smoothing / n_items)
            if weights is not None and losses is not None:
                losses[first : first + chunk] = cost
                cost = cost * weights[first : first + chunk]
                slope.mul_(weights[first : first + chunk, None])
            total += cost.sum(dtype=torch.float64)
            if half is not None:
                factor.copy_(slope)
            if grad_states is not None:
                grad_states[first : first + chunk] = factor @ right
            if grad_table is not None and half is None:
                grad_table.addmm_(slope.T, part)
            elif grad_table is not None:
                grad_table += factor.T @ part
            if grad_values is not None and items is not None:
                grad_values[first : first + chunk] = slope.gather(1, items[first : first + chunk])
        ctx.save_for_backward(
            grad_states, grad_table, losses, grad_values, states, table, weights, values, items, targets
        )
        ctx.skip_diagonal = skip_diagonal
        ctx.smoothing = smoothing
        return (total / n_targets).to(room.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *parts, states, table, weights, values, items, targets = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            # Aliases: where one input was made from the other, only its own part is wanted here.
            states, table = states.view_as(states), table.view_as(table)
            weights = None if weights is None else weights.view_as(weights)
            values = None if values is None else values.view_as(values)
            offsets = None if values is None else ItemOffsets(items, values)
            loss = _plain_softmax_loss(
                states,
                table,
                weights,
                offsets,
                targets,
                skip_diagonal=ctx.skip_diagonal,
                smoothing=ctx.smoothing,
            )
            wanted = [x for x, need in zip((states, table, weights, values), needed, strict=True) if need]
            found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True))
            return *(next(found) if need else None for need in needed), None, None, None, None, None
        scale = grad / len(states)
        scaled = (part * scale if need else None for part, need in zip(parts, needed, strict=True))
        return *scaled, None, None, None, None, None


def _plain_softmax_loss(
    states: Tensor,
    table: Tensor,
    weights: Tensor | None,
    offsets: ItemOffsets | None,
    targets: Tensor,
    *,
    skip_diagonal: bool,
    smoothing: float,
) -> Tensor:
    """Compute the loss by what can be differentiated as often as wanted.

    A CPU does it chunk by chunk in the cache; a graph still holds all logits.
    """
    total = states.new_zeros(())
    chunk, column = _rows_at_once(states, table), torch.arange(len(table), device=states.device)
    for first in range(0, len(states), chunk):
        part = slice(first, first + chunk)
        logits = states[part] @ table.T
        if offsets is not None:
            logits = ItemOffsets(offsets.items[part], offsets.values[part]).add_to(logits)
        if skip_diagonal:
            logits = logits.masked_fill(column == column[part, None], float("-inf"))
        losses = F.cross_entropy(logits, targets[part], reduction="none", label_smoothing=smoothing)
        total = total + (losses if weights is None else weights[part] * losses).sum()
    return total / len(states)


def _rows_at_once(states: Tensor, table: Tensor) -> int:
    """Return of how many rows the logits are made together."""
    budget = CPU_CHUNK_ELEMENTS if states.device.type == "cpu" else GPU_CHUNK_ELEMENTS
    return max(16, budget // len(table))


def _softmax_loss(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    offsets: ItemOffsets | None = None,
    *,
    skip_diagonal: bool = False,
    smoothing: float = 0.0,
) -> Tensor:
    if not torch.is_grad_enabled():
        return _plain_softmax_loss(
            states, table, weights, offsets, targets, skip_diagonal=skip_diagonal, smoothing=smoothing
        )
    items, values = (None, None) if offsets is None else offsets
    device = states.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else _HALF.get()
    return _FusedSoftmax.apply(  # type: ignore[no-untyped-call]
        states, table, weights, values, items, targets, skip_diagonal, half, smoothing
    )


def full_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    offsets: ItemOffsets | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Average weight times cross-entropy over targets; shapes as in :func:`next_item_loss`."""
    return _softmax_loss(states, table, targets, weights, offsets, smoothing=smoothing)


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
