"""The Transformer encoder of SASRec, as published and as RecBole builds it.

``published`` (Kang & McAuley, ICDM 2018): LayerNorm of the queries alone before an attention, of everything
before a feed-forward network with ReLU, and once more at the end. ``recbole``: LayerNorm after each of them,
GELU, and dropout of what attention gives. ``torch``: as ``torch.nn.TransformerEncoderLayer`` has it, which is
``recbole`` with one dropout more, inside the feed-forward network.

Shapes: ``B`` rows, ``L`` positions, ``D`` width, ``H`` heads.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.models.dropout import Dropout, dropout

ACTIVATIONS = {"published": "relu", "recbole": "gelu", "torch": "gelu"}
LAYOUTS = tuple(ACTIVATIONS)


class SelfAttention(nn.Module):
    """Causal multi-head self-attention with its residual and LayerNorm.

    Right-padded rows need no padding mask: with a causal mask no kept position sees padding.
    """

    def __init__(
        self,
        *,
        width: int,
        n_heads: int,
        dropout: float,
        attn_dropout: float,
        eps: float,
        layout: str = "recbole",
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.attn_dropout = attn_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.published = layout == "published"
        self.dropout = Dropout(0.0 if self.published else dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """Attend at every position, or only at some: [B, L, D], [B, P] -> [B, L, D] or [B, P, D].

        ``at`` names ``P`` positions of each row; the states of the others are not computed.
        """
        b, length, d = x.shape
        width = d // self.n_heads
        weight, bias = self.qkv.weight, self.qkv.bias
        if at is None:
            here, future = x, torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        else:
            here = x.gather(1, at[:, :, None].expand(-1, -1, d))  # [B, P, D]
            future = (torch.arange(length, device=x.device) > at[:, :, None])[:, None]  # [B, 1, P, L]
        if at is None and not self.published:
            q, k, v = self.qkv(x).view(b, length, 3, self.n_heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            asking = self.norm(here) if self.published else here
            q = F.linear(asking, weight[:d], bias[:d]).view(b, -1, self.n_heads, width).transpose(1, 2)
            kv = F.linear(x, weight[d:], bias[d:]).view(b, length, 2, self.n_heads, width)
            k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(q * width**-0.5, k.transpose(-1, -2))  # [B, H, P, L]
        scores = scores.masked_fill(future, float("-inf"))
        weights = dropout(scores.softmax(-1), self.attn_dropout, self.training)
        mixed = torch.matmul(weights, v).transpose(1, 2).reshape(b, -1, d)
        added = here + self.dropout(self.out(mixed))
        return added if self.published else self.norm(added)


class FeedForward(nn.Module):
    """Position-wise feed-forward network with its dropout, residual and LayerNorm."""

    def __init__(
        self, *, width: int, inner: int, dropout: float, eps: float, layout: str = "recbole"
    ) -> None:
        super().__init__()
        self.published = layout == "published"
        self.inside = Dropout(dropout if layout == "torch" else 0.0)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self.published:
            x = self.norm(x)
            return x + self.dropout(self.outer(F.relu(self.dropout(self.inner(x)))))
        return self.norm(x + self.dropout(self.outer(self.inside(F.gelu(self.inner(x))))))


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
        layout: str = "recbole",
    ) -> None:
        super().__init__()
        attention = functools.partial(
            SelfAttention, width=width, n_heads=n_heads, dropout=dropout, attn_dropout=attn_dropout
        )
        feed_forward = functools.partial(FeedForward, width=width, inner=inner, dropout=dropout)
        self.attentions = nn.ModuleList(attention(eps=eps, layout=layout) for _ in range(n_layers))
        self.feed_forwards = nn.ModuleList(feed_forward(eps=eps, layout=layout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width, eps=eps) if layout == "published" else nn.Identity()

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
        return self.norm(x)
