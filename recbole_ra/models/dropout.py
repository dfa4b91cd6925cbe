"""Dropout whose random bits cost little on a CPU.

``torch.nn.functional.dropout`` draws one 32-bit number an element on one core: a third of a CPU
epoch of SASRec. One 64-bit draw serves eight elements here. On other devices torch's own is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _ByteDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        n = x.numel()
        words = torch.empty((n + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[:n].view(x.shape) >= threshold
        ctx.save_for_backward(keep)
        ctx.scale = 256 / (256 - threshold)
        return torch.ops.aten.native_dropout_backward(x, keep, ctx.scale)  # x * keep * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(grad, keep, ctx.scale), None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability ``p`` and scale the rest so that the mean is kept.

    On a CPU ``p`` is rounded to a multiple of 1/256 (0.5 is exact) and the scale follows it.

    Parameters
    ----------
    x : Tensor, any shape
    p : float in [0, 1]
    training : bool
        When false, ``x`` is returned unchanged.
    """
    threshold = round(p * 256)
    if not training or threshold == 0:
        return x
    if x.device.type != "cpu" or threshold == 256:
        return F.dropout(x, p, True)
    dropped: Tensor = _ByteDropout.apply(x, threshold)  # type: ignore[no-untyped-call]
    return dropped


class Dropout(nn.Module):
    """Module form of :func:`dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability must lie in [0, 1], got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return dropout(x, self.p, self.training)
