"""The Transformer encoder of SASRec as RecBole builds it (post-norm, GELU).

Shapes: ``B`` rows, ``L`` positions, ``D`` width, ``H`` heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.nn.dropout import Dropout, dropout


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

    def forward(self, x: Tensor, *, causal: bool = True) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        b, length, d = x.shape
        qkv = self.qkv(x).view(b, length, 3, self.n_heads, d // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, L, D/H]
        scores = torch.matmul(q * (d // self.n_heads) ** -0.5, k.transpose(-1, -2))  # [B, H, L, L]
        if causal:
            future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        weights = dropout(scores.softmax(-1), self.attn_dropout, self.training)
        mixed = torch.matmul(weights, v).transpose(1, 2).reshape(b, length, d)
        return self.norm(x + self.dropout(self.out(mixed)))


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
        self.blocks = nn.ModuleList(
            nn.Sequential(
                SelfAttention(width=width, n_heads=n_heads, dropout=dropout, attn_dropout=attn_dropout, eps=eps),
                FeedForward(width=width, inner=inner, dropout=dropout, eps=eps),
            )
            for _ in range(n_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]; position ``t`` depends on positions ``<= t`` only."""
        for block in self.blocks:
            x = block(x)
        return x
