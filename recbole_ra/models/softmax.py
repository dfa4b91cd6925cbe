"""Cross-entropy over all items, without holding all logits, to be differentiated twice.

Shapes: ``T`` targets, ``D`` width, ``N`` items, ``K`` offsets of a row, ``C`` rows of a chunk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recbole_ra.models.history import ItemOffsets

# 85 rows of 12,000 float32 logits are 4 MB: they stay in a CPU's last-level cache between the three
# matrix products.
CPU_CHUNK_ELEMENTS = 1 << 20
GPU_CHUNK_ELEMENTS = 1 << 28
# float16 has steps of 6e-8 below 6e-5, where most probabilities of a large catalogue lie; rounded to it, all
# slopes of a million items were wrong to one side, together by 4 %.
FLOAT16_ITEMS = 1 << 16


def full_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    offsets: ItemOffsets | None = None,
    *,
    smoothing: float = 0.0,
    skip_diagonal: bool = False,
) -> Tensor:
    """Average weight times cross-entropy of ``states @ table.T`` over targets.

    Parameters
    ----------
    states : Tensor, shape [T, D]
    table : Tensor, shape [N, D]
    targets : int64 Tensor, shape [T]
    weights : Tensor, shape [T], optional
        Gradients reach them.
    offsets : ItemOffsets, optional
        What is added to the logits of a few items of each row; gradients reach their values.
    smoothing : float
        Share of a target's probability that is spread evenly over the table.
    skip_diagonal : bool
        Leave item ``t`` out of row ``t``.

    Returns
    -------
    Tensor, shape []
    """
    items, values = (None, None) if offsets is None else offsets
    device = states.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else _HALF.get()
    if half is torch.float16 and len(table) > FLOAT16_ITEMS:
        half = torch.bfloat16
    how = _Labels(targets, items, smoothing, skip_diagonal, half)
    loss: Tensor = _Softmax.apply(  # type: ignore[no-untyped-call]
        states, table, weights, values, how, torch.is_grad_enabled()
    )
    return loss


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


@dataclass(frozen=True)
class _Labels:
    """What the rows are compared with, and how it is computed; nothing here has a gradient."""

    targets: Tensor
    items: Tensor | None
    smoothing: float
    skip_diagonal: bool
    half: torch.dtype | None

    def rounded(self, factor: Tensor) -> Tensor:
        """Return the factor of a product in the precision of products."""
        return factor if self.half is None else factor.to(self.half)

    def chunks(
        self, states: Tensor, table: Tensor, values: Tensor | None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield rows, their logits [C, N], and room for the factor of a product; chunks share the rooms.

        States and table are rounded. With mixed precision that room is of half precision; otherwise it is
        that of the logits.
        """
        budget = CPU_CHUNK_ELEMENTS if states.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        chunk = max(16, budget // len(table))
        shape = (min(chunk, len(states)), len(table))
        room = states.new_empty(shape, dtype=states.dtype if self.half is None else torch.float32)
        product = room if self.half is None else states.new_empty(shape)
        for first in range(0, len(states), chunk):
            rows = slice(first, min(first + chunk, len(states)))
            logits = room[: rows.stop - first]
            factor = logits if self.half is None else product[: len(logits)]
            torch.mm(states[rows], table.T, out=factor)
            if self.half is not None:
                logits.copy_(factor)
            if self.skip_diagonal:
                logits.diagonal(first).fill_(float("-inf"))
            if self.items is not None and values is not None:
                logits.scatter_add_(1, self.items[rows], values[rows].to(logits.dtype))
            yield rows, logits, factor

    def expect(self, rows: slice, scores: Tensor) -> Tensor:
        """Return the labels' mean of scores [C, N], [C]."""
        wanted = scores.gather(1, self.targets[rows, None]).squeeze(1)
        return torch.lerp(wanted, scores.mean(1), self.smoothing) if self.smoothing else wanted

    def subtract(self, rows: slice, probabilities: Tensor) -> None:
        """Take the labels from probabilities [C, N], in place: the loss's slope in the logits."""
        wanted = self.targets[rows, None]
        probabilities.scatter_add_(1, wanted, probabilities.new_full(wanted.shape, self.smoothing - 1.0))
        if self.smoothing:
            probabilities.sub_(self.smoothing / probabilities.shape[1])


class _Softmax(torch.autograd.Function):
    """The loss. Its gradients are known as soon as the logits are, so they are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        weights: Tensor | None,
        values: Tensor | None,
        how: _Labels,
        differentiate: bool,
    ) -> Tensor:
        of_states, of_table, _, of_values = (differentiate and need for need in ctx.needs_input_grad[:4])
        with torch.autocast(states.device.type, enabled=False):
            grad_states = torch.empty_like(states) if of_states else None
            grad_table = torch.zeros_like(table) if of_table else None
            grad_values = torch.empty_like(values) if values is not None and of_values else None
            losses = None if weights is None else torch.empty_like(weights)
            total = states.new_zeros((), dtype=torch.float64)
            left, right = how.rounded(states), how.rounded(table)
            for rows, room, factor in how.chunks(left, right, values):
                largest, expected = room.amax(1), how.expect(rows, room)
                torch.softmax(room, 1, out=room)
                # The largest probability is exp(0) over the normaliser, so the exponentials are made once.
                cost = largest - room.amax(1).log() - expected
                if weights is not None and losses is not None:
                    losses[rows] = cost
                    cost = cost * weights[rows]
                total += cost.sum(dtype=torch.float64)
                if not (of_states or of_table or of_values):
                    continue
                how.subtract(rows, room)
                if weights is not None:
                    room.mul_(weights[rows, None])
                slope = factor if factor is room else factor.copy_(room)
                if grad_states is not None:
                    grad_states[rows] = slope @ right
                if grad_table is not None:
                    _add_product(grad_table, slope, left[rows])
                if grad_values is not None and how.items is not None:
                    grad_values[rows] = room.gather(1, how.items[rows])
        ctx.save_for_backward(states, table, weights, values, grad_states, grad_table, losses, grad_values)
        ctx.how = how
        return (total / len(states)).to(states.dtype if how.half is None else torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_Slope.apply(grad, ctx.how, *ctx.saved_tensors), None, None  # type: ignore[no-untyped-call]


class _Slope(torch.autograd.Function):
    """The gradients of the loss; its own gradients are products with the loss's Hessian.

    With ``G = w (P - Y)`` the slope in the logits (``P`` probabilities, ``Y`` labels), the gradients are
    ``G E`` in the states ``H``, ``Gᵀ H`` in the table ``E``, the losses ``c`` in the weights and ``G``
    at the offsets' items. Their inner product with a direction (``A``, ``B``, ``u``, ``v``) is
    ``Σ G R + Σ u c`` with ``R = A Eᵀ + H Bᵀ + v``; its slope in the logits is
    ``w P (R - Σ P R) + u (P - Y)``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        how: _Labels,
        states: Tensor,
        table: Tensor,
        weights: Tensor | None,
        values: Tensor | None,
        *made: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        ctx.how = how
        ctx.save_for_backward(grad, states, table, weights, values, made[2])
        scale = grad / len(states)
        return tuple(None if part is None else part * scale for part in made)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, a: Tensor | None, b: Tensor | None, u: Tensor | None, v: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        grad, states, table, weights, values, losses = ctx.saved_tensors
        how: _Labels = ctx.how
        a = torch.zeros_like(states) if a is None else a
        b = torch.zeros_like(table) if b is None else b
        with torch.autocast(states.device.type, enabled=False):
            of_states, of_table = torch.empty_like(states), torch.zeros_like(table)
            of_weights, of_values = (None if x is None else torch.empty_like(x) for x in (weights, values))
            total = states.new_zeros((), dtype=torch.float64)
            left, right, a, b = (how.rounded(x) for x in (states, table, a, b))
            plain = how.chunks(left, right, values)
            directed = replace(how, skip_diagonal=False).chunks(
                torch.cat([a, left], 1), torch.cat([right, b], 1), v
            )
            for (rows, slope, factor), (_, curve, other) in zip(plain, directed, strict=True):
                torch.softmax(slope, 1, out=slope)
                mean = torch.linalg.vecdot(slope, curve)
                change = mean - how.expect(rows, curve)
                curve.sub_(mean[:, None]).mul_(slope)
                how.subtract(rows, slope)
                if weights is not None and of_weights is not None:
                    of_weights[rows] = change
                    change = weights[rows] * change
                    curve.mul_(weights[rows, None])
                    if u is not None:
                        change = change + u[rows] * losses[rows]
                        curve.addcmul_(slope, u[rows, None].to(slope.dtype))
                    slope.mul_(weights[rows, None])
                total += change.sum(dtype=torch.float64)
                if of_values is not None and how.items is not None:
                    of_values[rows] = curve.gather(1, how.items[rows])
                slope, curve = (x if x is y else y.copy_(x) for x, y in ((slope, factor), (curve, other)))
                of_states[rows] = curve @ right + slope @ b
                _add_product(of_table, curve, left[rows])
                _add_product(of_table, slope, a[rows])
            scale = grad / len(states)
            found = (None if x is None else x * scale for x in (of_states, of_table, of_weights, of_values))
            return (total / len(states)).to(grad.dtype), None, *found, None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``leftᵀ right`` to the total, which may be of higher precision, in place."""
    if left.dtype == total.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right
