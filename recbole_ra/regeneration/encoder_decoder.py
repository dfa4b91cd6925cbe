"""Stacks of packed Transformer blocks (post-norm, GELU): an encoder, and a decoder with a cache.

Shapes: ``R`` rows, ``L`` places of the memory, ``T`` steps, ``D`` width, ``H`` heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_ra.models.transformer import FeedForward
from recbole_ra.regeneration.packed_attention import EPS, AttentionMask, PackedAttention, hide


def _feed_forwards(n_layers: int, width: int, inner: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(
        FeedForward(width=width, inner=inner, dropout=dropout, eps=EPS) for _ in range(n_layers)
    )


class Encoder(nn.Module):
    """``n_layers`` blocks of self-attention and feed-forward."""

    def __init__(self, n_layers: int, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(PackedAttention(width, dropout) for _ in range(n_layers))
        self.feed_forwards = _feed_forwards(n_layers, width, inner, dropout)

    def forward(self, x: Tensor, mask: AttentionMask) -> Tensor:
        """[tokens, D] -> [tokens, D]."""
        for attention, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            x = feed_forward(attention(x, x, mask))
        return x


@dataclass
class DecoderCache:
    """What a decoder keeps of ``R`` rows between steps.

    Attributes
    ----------
    layers : list of list of Tensor
        Keys and values of the tokens so far, shape [T, R, H, D/H], not filled yet from ``length`` on;
        keys and values of the memory, shape [L, R, H, D/H].
    bias : Tensor, shape [L, R, 1]
        Hides the padding of the memory.
    length : int
        Steps taken.
    """

    layers: list[list[Tensor]]
    bias: Tensor
    length: int = 0

    @torch.no_grad()
    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 [rows kept]."""
        for layer in self.layers:
            for number, buffer in enumerate(layer):
                filled = self.length if number < 2 else len(buffer)  # of the tokens; of the memory
                kept = buffer.new_empty(len(buffer), len(rows), *buffer.shape[2:])
                torch.index_select(buffer[:filled], 1, rows, out=kept[:filled])
                layer[number] = kept
        self.bias = self.bias.index_select(1, rows)


class Decoder(nn.Module):
    """``n_layers`` blocks of causal self-attention, attention over a memory, and feed-forward."""

    def __init__(self, n_layers: int, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(PackedAttention(width, dropout) for _ in range(n_layers))
        self.memory_attentions = nn.ModuleList(PackedAttention(width, dropout) for _ in range(n_layers))
        self.feed_forwards = _feed_forwards(n_layers, width, inner, dropout)

    def _layers(self) -> Iterator[Any]:
        return zip(self.attentions, self.memory_attentions, self.feed_forwards, strict=True)

    def forward(self, x: Tensor, memory: Tensor, own: AttentionMask, to_memory: AttentionMask) -> Tensor:
        """[target tokens, D], [source tokens, D] -> [target tokens, D].

        ``own`` is causal, among the target tokens; ``to_memory`` goes from them to the source tokens.
        """
        for attention, memory_attention, feed_forward in self._layers():
            x = feed_forward(memory_attention(attention(x, x, own), memory, to_memory))
        return x

    def start(self, memory: Tensor, hidden: Tensor, n_steps: int) -> DecoderCache:
        """Project memories [R, L, D], whose padding is ``hidden`` [R, L], for at most ``n_steps`` steps."""
        memory = memory.transpose(0, 1)  # [L, R, D]
        layers = []
        for _, attention, _ in self._layers():
            memory_keys, memory_values = attention.project(memory)
            keys = memory.new_empty(n_steps, *memory_keys.shape[1:])
            layers.append([keys, torch.empty_like(keys), memory_keys, memory_values])
        return DecoderCache(layers, hide(hidden, memory.dtype).T[:, :, None])

    def step(self, x: Tensor, cache: DecoderCache) -> Tensor:
        """Take one more token of each row, [R, D] -> [R, D]."""
        now = cache.length
        for number, (attention, memory_attention, feed_forward) in enumerate(self._layers()):
            keys, values, memory_keys, memory_values = cache.layers[number]
            keys[now], values[now] = attention.project(x)
            x = attention.one_query(x, keys[: now + 1], values[: now + 1])
            x = feed_forward(memory_attention.one_query(x, memory_keys, memory_values, cache.bias))
        cache.length += 1
        return x
