"""What encoders of ours share: settings of their size and training, item and position vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.core.setting import setting
from recbole_ra.models.backbone import EncoderBackbone
from recbole_ra.models.dropout import Dropout
from recbole_ra.models.losses import LossSettings

POSITIONS = ("start", "end")


@dataclass(frozen=True)
class EncoderSettings(LossSettings):
    """Size of an encoder of blocks; names are RecBole's."""

    n_layers: int = setting(2, "blocks of the encoder", low=1, shapes="backbone", expert=True)
    hidden_size: int = setting(64, "width of states and item vectors", low=1, shapes="backbone", expert=True)
    inner_size: int = setting(
        256,
        "width inside the feed-forward networks, that of the retrieval-augmented module too",
        low=1,
        shapes="backbone",
        expert=True,
    )
    hidden_dropout_prob: float = setting(
        0.5,
        "dropout of embeddings and blocks",
        low=0,
        high=1,
        shapes="backbone",
        while_training=True,
        expert=True,
    )
    layer_norm_eps: float = setting(
        1e-12, "added to the variance in LayerNorm", low=0, shapes="backbone", expert=True
    )
    initializer_range: float = setting(
        0.02, "standard deviation of initial weights", low=0, shapes="backbone", expert=True
    )
    positions: str = setting(
        "start",
        "where the places of a history are counted from: its first item or its last",
        choices=POSITIONS,
        shapes="backbone",
        expert=True,
    )


@dataclass(frozen=True)
class AttentionSettings(EncoderSettings):
    """Size of an encoder with attention; names are RecBole's."""

    n_heads: int = setting(2, "attention heads", low=1, shapes="backbone", expert=True)
    attn_dropout_prob: float = setting(
        0.5,
        "dropout of attention weights",
        low=0,
        high=1,
        shapes="backbone",
        while_training=True,
        expert=True,
    )


@dataclass(frozen=True)
class ContrastSettings:
    """A contrastive term beside the loss."""

    lmd: float = setting(
        0.1, "weight of the contrastive term", low=0, shapes="backbone", while_training=True, expert=True
    )
    tau: float = setting(
        1.0, "its temperature", low=1e-6, shapes="backbone", while_training=True, expert=True
    )


class EmbeddedBackbone(EncoderBackbone):
    """An encoder that begins with item and position vectors, LayerNorm and dropout.

    Parameters
    ----------
    n_items : int
        Size of the vocabulary, padding included.
    max_length : int
        Longest history.
    settings : EncoderSettings
    """

    Settings: ClassVar[type[EncoderSettings]] = EncoderSettings

    def __init__(self, n_items: int, max_length: int, settings: EncoderSettings) -> None:
        super().__init__(n_items, max_length, settings.hidden_size, settings)
        width = settings.hidden_size
        self.item_embedding = nn.Embedding(n_items, width, padding_idx=0)
        self.position_embedding = nn.Embedding(max_length, width)
        self.norm: nn.Module = nn.LayerNorm(width, eps=settings.layer_norm_eps)
        self.dropout = Dropout(settings.hidden_dropout_prob)
        self.from_end = settings.positions == "end"

    def initialise(self, std: float) -> None:
        """Draw every weight of an embedding or a linear layer anew; biases are 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def embed(self, items: Tensor, first: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D]: what the first block reads; ``first`` [B] are the rows' first positions."""
        positions = torch.arange(items.shape[1], device=items.device)
        last = self.max_length - 1
        if self.from_end:
            first = last + 1 - (items > 0).sum(1)
        if first is not None:  # of padding beyond the last position it does not matter which
            positions = (first[:, None] + positions).clamp(max=last)
        return self.dropout(self.norm(self.vectors(items) + self.position_embedding(positions)))

    def vectors(self, items: Tensor) -> Tensor:
        """Return the vectors of the items of a history, [B, L] -> [B, L, D]."""
        return F.embedding(items, self.item_table, padding_idx=0)

    @property
    def item_table(self) -> Tensor:
        """The vectors that states are scored against, shape [N, D]."""
        return self.item_embedding.weight
