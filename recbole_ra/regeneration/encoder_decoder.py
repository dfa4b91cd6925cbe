"""Stacks of packed Transformer blocks (post-norm, GELU): an encoder, and a decoder with a cache.

Shapes: ``R`` rows, ``L`` places of the memory, ``T`` steps, ``D`` width, ``H`` heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict, cast

import torch
from torch import Tensor, nn

from recbole_ra.models.transformer import FeedForward
from recbole_ra.regeneration.packed_attention import PackedAttention
from recbole_ra.regeneration.packing import AttentionMask, hide


class BlockOptions(TypedDict):
    """What every block of a stack is built with."""

    width: int
    n_heads: int
    inner: int
    dropout: float
    eps: float


def _attentions(n_layers: int, options: BlockOptions) -> nn.ModuleList:
    return nn.ModuleList(
        PackedAttention(
            width=options["width"],
            n_heads=options["n_heads"],
            dropout=options["dropout"],
            eps=options["eps"],
        )
        for _ in range(n_layers)
    )


def _feed_forwards(n_layers: int, options: BlockOptions) -> nn.ModuleList:
    return nn.ModuleList(
        FeedForward(
            width=options["width"], inner=options["inner"], dropout=options["dropout"], eps=options["eps"]
        )
        for _ in range(n_layers)
    )


class Encoder(nn.Module):
    """``n_layers`` blocks of self-attention and feed-forward."""

    def __init__(self, n_layers: int, options: BlockOptions) -> None:
        super().__init__()
        self.attentions = _attentions(n_layers, options)
        self.feed_forwards = _feed_forwards(n_layers, options)

    def forward(self, x: Tensor, mask: AttentionMask) -> Tensor:
        """[tokens, D] -> [tokens, D]."""
        for attention, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            x = feed_forward(attention(x, x, mask))
        return x


@dataclass
class DecoderCache:
    """What a decoder keeps of ``R`` rows between steps; one entry a layer.

    Attributes
    ----------
    keys, values : list of Tensor, shape [T, R, H, D/H]
        Of the tokens so far; places from ``length`` on are not filled yet.
    memory_keys, memory_values : list of Tensor, shape [L, R, H, D/H]
    bias : Tensor, shape [L, R, 1]
        Hides the padding of the memory.
    length : int
        Steps taken.
    """

    keys: list[Tensor]
    values: list[Tensor]
    memory_keys: list[Tensor]
    memory_values: list[Tensor]
    bias: Tensor
    length: int = 0

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 [rows kept]."""
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                kept = buffer.new_empty(buffer.shape[0], len(rows), *buffer.shape[2:])
                kept[: self.length] = buffer[: self.length].index_select(1, rows)
                buffers[layer] = kept
        self.memory_keys = [keys.index_select(1, rows) for keys in self.memory_keys]
        self.memory_values = [values.index_select(1, rows) for values in self.memory_values]
        self.bias = self.bias.index_select(1, rows)


class Decoder(nn.Module):
    """``n_layers`` blocks of causal self-attention, attention over a memory, and feed-forward."""

    def __init__(self, n_layers: int, options: BlockOptions) -> None:
        super().__init__()
        self.attentions = _attentions(n_layers, options)
        self.memory_attentions = _attentions(n_layers, options)
        self.feed_forwards = _feed_forwards(n_layers, options)

    def forward(self, x: Tensor, memory: Tensor, own: AttentionMask, across: AttentionMask) -> Tensor:
        """[target tokens, D], [source tokens, D] -> [target tokens, D].

        ``own`` is causal, among the target tokens; ``across`` goes from them to the memory.
        """
        for attention, memory_attention, feed_forward in self._layers():
            x = feed_forward(memory_attention(attention(x, x, own), memory, across))
        return x

    def start(self, memory: Tensor, hidden: Tensor, n_steps: int) -> DecoderCache:
        """Project the memories once, before the first step.

        Parameters
        ----------
        memory : Tensor, shape [R, L, D]
        hidden : bool Tensor, shape [R, L]
            Padding of the memory.
        n_steps : int
            Most steps that will be taken.
        """
        memory = memory.transpose(0, 1)  # [L, R, D]
        layers = [layer for _, layer, _ in self._layers()]
        keys = [layer.heads(layer.key(memory)) for layer in layers]
        values = [layer.heads(layer.value(memory)) for layer in layers]
        empty = [memory.new_empty(n_steps, *key.shape[1:]) for key in keys]
        bias = hide(hidden, memory.dtype).T[:, :, None]
        return DecoderCache(empty, [torch.empty_like(buffer) for buffer in empty], keys, values, bias)

    def step(self, x: Tensor, cache: DecoderCache) -> Tensor:
        """[R, D] -> [R, D]: the states of one more token of each row."""
        now = cache.length
        for layer, (attention, memory_attention, feed_forward) in enumerate(self._layers()):
            cache.keys[layer][now] = attention.heads(attention.key(x))
            cache.values[layer][now] = attention.heads(attention.value(x))
            x = attention.one(x, cache.keys[layer][: now + 1], cache.values[layer][: now + 1])
            x = memory_attention.one(x, cache.memory_keys[layer], cache.memory_values[layer], cache.bias)
            x = feed_forward(x)
        cache.length += 1
        return x

    def _layers(self) -> zip[tuple[PackedAttention, PackedAttention, FeedForward]]:
        return zip(
            cast(Iterable[PackedAttention], self.attentions),
            cast(Iterable[PackedAttention], self.memory_attentions),
            cast(Iterable[FeedForward], self.feed_forwards),
            strict=True,
        )
