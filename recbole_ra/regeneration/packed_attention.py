"""Attention over packed rows (:mod:`recbole_ra.regeneration.packing`).

Shapes: ``b`` rows of a group, ``T`` queries and ``L`` keys of its longest row, ``D`` width, ``H``
heads, ``n = b * H``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_ra.models.dropout import Dropout, dropout
from recbole_ra.regeneration.packing import AttentionMask


@dataclass(frozen=True)
class _Part:
    """One group in the flat tensors that hold all groups."""

    n: int
    t: int
    length: int
    query: int
    key: int
    score: int

    @classmethod
    def all_of(cls, shapes: Sequence[tuple[int, int, int]]) -> list[_Part]:
        parts, query, key, score = [], 0, 0, 0
        for n, t, length in shapes:
            parts.append(cls(n, t, length, query, key, score))
            query, key, score = query + n * t, key + n * length, score + n * t * length
        return parts

    def queries(self, x: Tensor) -> Tensor:
        """[n, T, D/H]."""
        return x[self.query : self.query + self.n * self.t].view(self.n, self.t, -1)

    def keys(self, x: Tensor) -> Tensor:
        """[n, L, D/H]."""
        return x[self.key : self.key + self.n * self.length].view(self.n, self.length, -1)

    def scores(self, x: Tensor) -> Tensor:
        """[n, L, T]."""
        return x[self.score : self.score + self.n * self.t * self.length].view(self.n, self.length, self.t)


class _Attend(torch.autograd.Function):
    """Softmax attention of packed queries over packed keys and values, all groups at once.

    Autograd would do it in some dozens of small operations for each group; here the gradient is
    worked out by hand. All inputs and the result are [tokens * H, D/H].
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, p: float) -> Tensor:
        (q_rows, q_packed), (k_rows, _) = mask.queries, mask.keys
        q, k, v = q.index_select(0, q_rows), k.index_select(0, k_rows), v.index_select(0, k_rows)
        parts = _Part.all_of(mask.shapes)
        weights = q.new_empty(sum(part.n * part.t * part.length for part in parts))
        for part, bias in zip(parts, mask.bias, strict=True):
            scores = torch.baddbmm(bias, part.keys(k), part.queries(q).mT, alpha=q.shape[1] ** -0.5)
            # Keys before queries: torch normalises over a short last dimension several times slower.
            torch.softmax(scores, 1, out=part.scores(weights))
        kept = dropout(torch.ones_like(weights), p, True) if p else None
        dropped = weights if kept is None else weights * kept
        mixed = torch.empty_like(q)
        for part in parts:
            torch.bmm(part.scores(dropped).mT, part.keys(v), out=part.queries(mixed))
        ctx.known = q, k, v, weights, kept, dropped
        ctx.mask, ctx.parts = mask, parts
        return mixed.index_select(0, q_packed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        if torch.is_grad_enabled():
            raise NotImplementedError("packed attention has no second derivative")
        q, k, v, weights, kept, dropped = ctx.known
        (_, q_packed), (_, k_packed) = ctx.mask.queries, ctx.mask.keys
        grad = torch.zeros_like(q).index_copy_(0, q_packed, grad)  # no gradient comes from padding
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        slope = torch.empty_like(weights)
        for part in ctx.parts:
            torch.bmm(part.scores(dropped), part.queries(grad), out=part.keys(grad_v))
            torch.bmm(part.keys(v), part.queries(grad).mT, out=part.scores(slope))
        if kept is not None:
            slope.mul_(kept)
        for part in ctx.parts:
            inner = torch.ops.aten._softmax_backward_data(
                part.scores(slope), part.scores(weights), 1, slope.dtype
            ).mul_(q.shape[1] ** -0.5)
            torch.bmm(inner.mT, part.keys(k), out=part.queries(grad_q))
            torch.bmm(inner, part.queries(q), out=part.keys(grad_k))
        return (
            grad_q.index_select(0, q_packed),
            grad_k.index_select(0, k_packed),
            grad_v.index_select(0, k_packed),
            None,
            None,
        )


class PackedAttention(nn.Module):
    """Multi-head attention of packed rows over packed rows; dropout, residual and LayerNorm."""

    def __init__(self, *, width: int, n_heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.p = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, memory: Tensor, mask: AttentionMask) -> Tensor:
        """[query tokens, D], [key tokens, D] -> [query tokens, D]."""
        q, k, v = self.heads(self.query(x)), self.heads(self.key(memory)), self.heads(self.value(memory))
        mixed = _Attend.apply(  # type: ignore[no-untyped-call]
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask, self.p if self.training else 0.0
        )
        return self._close(x, mixed.view(x.shape))

    def one(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """Let one query of each row attend keys that are already projected; without dropout.

        Parameters
        ----------
        x : Tensor, shape [b, D]
        keys, values : Tensor, shape [L, b, H, D/H]
        bias : Tensor, shape [L, b, 1], optional
            Added to the scores.

        Returns
        -------
        Tensor, shape [b, D]
        """
        q = self.heads(self.query(x)) * (x.shape[1] // self.n_heads) ** -0.5  # [b, H, D/H]
        # One query a row makes matrix products of one row: plain sums take half their time.
        scores = (keys * q).sum(-1)  # [L, b, H]
        weights = (scores if bias is None else scores + bias).softmax(0)
        mixed = (weights[..., None] * values).sum(0)  # [b, H, D/H]
        return self._close(x, mixed.flatten(1))

    def heads(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., H, D/H]."""
        return x.view(*x.shape[:-1], self.n_heads, -1)

    def _close(self, x: Tensor, mixed: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.out(mixed)))
