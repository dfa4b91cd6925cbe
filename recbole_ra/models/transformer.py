"""The Transformer encoder of SASRec as RecBole builds it (post-norm, GELU).

Shapes: ``B`` rows, ``L`` positions, ``D`` width, ``H`` heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.models.dropout import Dropout, dropout


class SelfAttention(nn.Module):
    """Causal multi-head self-attention, then dropout, residual and LayerNorm.

    Right-padded rows need no padding mask: with a causal mask no kept position sees padding.
    """

    def __init__(self, *, width: int, n_heads: int, dropout: float, attn_dropout: float, eps: float) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.attn_dropout = attn_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """Attend at every position, or only at some: [B, L, D], [B, P] -> [B, L, D] or [B, P, D].

        ``at`` names ``P`` positions of each row; the states of the others are not computed.
        """
        b, length, d = x.shape
        width = d // self.n_heads
        if at is None:
            q, k, v = self.qkv(x).view(b, length, 3, self.n_heads, width).permute(2, 0, 3, 1, 4).unbind(0)
            future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            here = x
        else:
            here = x.gather(1, at[:, :, None].expand(-1, -1, d))  # [B, P, D]
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(here, weight[:d], bias[:d]).view(b, -1, self.n_heads, width).transpose(1, 2)
            kv = F.linear(x, weight[d:], bias[d:]).view(b, length, 2, self.n_heads, width)
            k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
            future = (torch.arange(length, device=x.device) > at[:, :, None])[:, None]  # [B, 1, P, L]
        scores = torch.matmul(q * width**-0.5, k.transpose(-1, -2))  # [B, H, P, L]
        scores = scores.masked_fill(future, float("-inf"))
        weights = dropout(scores.softmax(-1), self.attn_dropout, self.training)
        mixed = torch.matmul(weights, v).transpose(1, 2).reshape(b, -1, d)
        return self.norm(here + self.dropout(self.out(mixed)))


class FeedForward(nn.Module):
    """Position-wise feed-forward network with GELU, dropout, residual and LayerNorm."""

    def __init__(self, *, width: int, inner: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.norm(x + self.dropout(self.outer(F.gelu(self.inner(x)))))


class TransformerEncoder(nn.Module):
    """``n_layers`` blocks of self-attention and feed-forward."""

    def __init__(
        self,
        *,
        n_layers: int,
        width: int,
        n_heads: int,
        inner: int,
        dropout: float,
        attn_dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            SelfAttention(width=width, n_heads=n_heads, dropout=dropout, attn_dropout=attn_dropout, eps=eps)
            for _ in range(n_layers)
        )
        self.feed_forwards = nn.ModuleList(
            FeedForward(width=width, inner=inner, dropout=dropout, eps=eps) for _ in range(n_layers)
        )

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D]; position ``t`` depends on positions ``<= t`` only.

        With ``at`` [B, P] only the states at those positions come back, [B, P, D], and the last
        block computes no others: with one target a row that is a third of the encoder's work.
        """
        last = len(self.attentions) - 1
        for number, (attention, feed_forward) in enumerate(
            zip(self.attentions, self.feed_forwards, strict=True)
        ):
            x = feed_forward(attention(x, at if number == last else None))
        return x
