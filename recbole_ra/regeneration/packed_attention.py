"""Attention among rows of unequal length without padding.

Lengths are long-tailed: padded to the longest, most of a batch would be padding. Here the tokens
of all rows lie one after another (*packed*, shape [tokens, D]), which is all that position-wise
layers need; only attention lays them out by rows, group by group of like length.

Shapes: ``b`` rows of a group, ``T`` queries and ``L`` keys of its longest row, ``D`` width, ``H``
heads, ``n = b * H``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_ra.models.dropout import Dropout, dropout

N_HEADS = 2
"""Attention heads everywhere in the regenerator (METHOD 1.3)."""

EPS = 1e-12
"""Of every LayerNorm in the regenerator."""


class Packing:
    """The tokens of padded groups without the padding, and the way back.

    Parameters
    ----------
    groups : sequence of int64 Tensor, shape [b, L]
        Right-padded with 0; every other number is a token.

    Attributes
    ----------
    tokens : int64, shape [tokens]
        Group after group, row after row.
    row, position : int64, shape [tokens]
        Row of each token, counted through all groups, and its place in the row.
    lengths : int64, shape [rows]
        Tokens of each row.
    """

    def __init__(self, groups: Sequence[Tensor]) -> None:
        self.groups = list(groups)
        flat = torch.cat([group.flatten() for group in groups])
        present = flat != 0
        self._place = present.nonzero().squeeze(1)
        # Padding stands for the token before it; any would do, as nothing attends to padding.
        self._token = (present.cumsum(0) - 1).clamp_(min=0)
        self.tokens = flat[self._place]
        self.lengths = torch.cat([(group != 0).sum(1) for group in groups])
        self.row = torch.arange(len(self.lengths), device=flat.device).repeat_interleave(self.lengths)
        first = self.lengths.cumsum(0) - self.lengths
        self.position = torch.arange(len(self.tokens), device=flat.device) - first[self.row]

    def __len__(self) -> int:
        return len(self.tokens)

    def pad(self, x: Tensor) -> list[Tensor]:
        """Lay out by rows: [tokens, D] -> [b, L, D] for each group, with anything at the padding."""
        places = torch.split(x.index_select(0, self._token), [group.numel() for group in self.groups])
        return [part.view(*group.shape, -1) for part, group in zip(places, self.groups, strict=True)]

    def pack(self, groups: Sequence[Tensor]) -> Tensor:
        """Undo :meth:`pad`: [b, L, ...] for each group, or all rows at once -> [tokens, ...]."""
        return torch.cat([group.flatten(0, 1) for group in groups]).index_select(0, self._place)

    def by_head(self, n_heads: int) -> tuple[Tensor, Tensor]:
        """Go between packed heads, [tokens * H], and rows laid out by head, [b, H, L] for each group.

        The first indexes the packed heads by place, [places * H]; the second does the reverse.
        """
        numbers = torch.arange(len(self._token) * n_heads, device=self.tokens.device)
        of_tokens = self.pad(numbers[: len(self) * n_heads].view(-1, n_heads))  # [b, L, H]
        sizes = [group.numel() * n_heads for group in self.groups]
        of_places = [
            part.view(len(group), n_heads, -1).mT  # [b, L, H]
            for part, group in zip(torch.split(numbers, sizes), self.groups, strict=True)
        ]
        return torch.cat([part.mT.flatten() for part in of_tokens]), self.pack(of_places).flatten()


def hide(where: Tensor, dtype: torch.dtype) -> Tensor:
    """Make what is added to scores: 0, or where the mask is true a number that leaves no weight.

    It is finite, so that a row without any key attends evenly instead of giving NaN.
    """
    zeros = torch.zeros(where.shape, dtype=dtype, device=where.device)
    return zeros.masked_fill_(where, torch.finfo(dtype).min)


class AttentionMask:
    """Lets each query attend the keys of its own row: all of them, or those up to its own position.

    Parameters
    ----------
    queries, keys : Packing
        Of the same rows; the queries in one group, or in the groups of the keys.
    dtype : torch.dtype
        Of the scores.
    causal : bool
        Whether keys after the query's position are hidden.

    Attributes
    ----------
    queries, keys
        :meth:`Packing.by_head` of both.
    shapes : list of (n, T, L)
        For each group of the keys.
    bias : list of Tensor, shape [n, L, 1] or [n, L, T]
        Added to the scores, keys before queries.
    """

    def __init__(
        self,
        queries: Packing,
        keys: Packing,
        dtype: torch.dtype,
        causal: bool = False,
        n_heads: int = N_HEADS,
    ) -> None:
        self.queries = queries.by_head(n_heads)
        self.keys = self.queries if keys is queries else keys.by_head(n_heads)
        widths = [group.shape[1] for group in queries.groups]
        widths = widths * len(keys.groups) if len(widths) == 1 else widths
        self.shapes: list[tuple[int, int, int]] = []
        self.bias: list[Tensor] = []
        for group, width in zip(keys.groups, widths, strict=True):
            length = group.shape[1]
            hidden = (group == 0).repeat_interleave(n_heads, 0)[:, :, None]
            if causal:
                place = torch.arange(max(length, width), device=group.device)
                hidden = hidden | (place[:length, None] > place[:width])
            self.shapes.append((len(hidden), width, length))
            self.bias.append(hide(hidden, dtype))


def _groups(x: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Views of the groups that lie one after another in a tensor."""
    parts = torch.split(x.view(-1), [math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class _Attend(torch.autograd.Function):
    """Softmax attention of packed queries over packed keys and values, all groups at once.

    Autograd would do it in some dozens of small operations for each group; here the gradient is
    worked out by hand. All inputs and the result are [tokens * H, D/H].
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, p: float) -> Tensor:
        (q_heads, q_places), (k_heads, _) = mask.queries, mask.keys
        q, k, v = q.index_select(0, q_heads), k.index_select(0, k_heads), v.index_select(0, k_heads)
        width = q.shape[1]
        of_queries = [(n, t, width) for n, t, _ in mask.shapes]
        of_keys = [(n, length, width) for n, _, length in mask.shapes]
        # Keys before queries: torch normalises over a short last dimension several times slower.
        of_scores = [(n, length, t) for n, t, length in mask.shapes]
        mixed = torch.empty_like(q)
        drawn = dropout(q.new_ones(sum(map(math.prod, of_scores))), p, True) if p else None
        inputs = _groups(q, of_queries), _groups(k, of_keys), _groups(v, of_keys)
        kept_by_group = [None] * len(of_scores) if drawn is None else _groups(drawn, of_scores)
        others = kept_by_group, mask.bias, _groups(mixed, of_queries)
        ctx.mask, ctx.shapes, ctx.known = mask, (of_queries, of_keys), []
        for query, key, value, kept, bias, out in zip(*inputs, *others, strict=True):
            weights = torch.baddbmm(bias, key, query.mT, alpha=width**-0.5).softmax(1)
            dropped = weights if kept is None else weights * kept
            torch.bmm(dropped.mT, value, out=out)
            ctx.known.append((query, key, value, weights, kept, dropped))
        return mixed.index_select(0, q_places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        if torch.is_grad_enabled():
            raise NotImplementedError("packed attention has no second derivative")
        (q_heads, q_places), (k_heads, k_places) = ctx.mask.queries, ctx.mask.keys
        of_queries, of_keys = ctx.shapes
        width = grad.shape[1]
        # No gradient comes from padding.
        grad = grad.new_zeros(len(q_heads), width).index_copy_(0, q_places, grad)
        grad_q, grad_k, grad_v = (grad.new_empty(len(heads), width) for heads in (q_heads, k_heads, k_heads))
        grads = [_groups(x, of_queries) for x in (grad, grad_q)] + [
            _groups(x, of_keys) for x in (grad_k, grad_v)
        ]
        for known, grad_mixed, grad_query, grad_key, grad_value in zip(ctx.known, *grads, strict=True):
            query, key, value, weights, kept, dropped = known
            torch.bmm(dropped, grad_mixed, out=grad_value)
            slope = torch.bmm(value, grad_mixed.mT)
            if kept is not None:
                slope.mul_(kept)
            slope = torch.ops.aten._softmax_backward_data(slope, weights, 1, slope.dtype)
            slope.mul_(width**-0.5)
            torch.bmm(slope.mT, key, out=grad_query)
            torch.bmm(slope, query, out=grad_key)
        of_k, of_v = grad_k.index_select(0, k_places), grad_v.index_select(0, k_places)
        return grad_q.index_select(0, q_places), of_k, of_v, None, None


class PackedAttention(nn.Module):
    """Multi-head attention of packed rows over packed rows; dropout, residual and LayerNorm."""

    def __init__(self, width: int, dropout: float, n_heads: int = N_HEADS) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, memory: Tensor, mask: AttentionMask) -> Tensor:
        """[query tokens, D], [key tokens, D] -> [query tokens, D]."""
        q, (k, v) = self._heads(self.query(x)), self.project(memory)
        mixed = _Attend.apply(  # type: ignore[no-untyped-call]
            *(part.flatten(0, 1) for part in (q, k, v)), mask, self.dropout.p if self.training else 0.0
        )
        return self._close(x, mixed.view(x.shape))

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] -> keys and values by head, [..., H, D/H]."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def one_query(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """Let one query of each of ``R`` rows attend keys that are already projected; without dropout.

        [R, D], [L, R, H, D/H] twice, and [L, R, 1] to add to the scores -> [R, D].
        """
        q = self._heads(self.query(x)) * (x.shape[1] // self.n_heads) ** -0.5  # [R, H, D/H]
        # One query a row makes matrix products of one row: plain sums take half their time.
        scores = (keys * q).sum(-1)  # [L, R, H]
        weights = (scores if bias is None else scores + bias).softmax(0)
        mixed = (weights[..., None] * values).sum(0)  # [R, H, D/H]
        return self._close(x, mixed.flatten(1))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.n_heads, -1)

    def _close(self, x: Tensor, mixed: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.out(mixed)))
