"""SASRec (Kang & McAuley, ICDM 2018), with RecBole's layer order and initialisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_ra.core.setting import setting
from recbole_ra.models.backbone import CausalBackbone
from recbole_ra.models.dropout import Dropout
from recbole_ra.models.losses import LOSSES
from recbole_ra.models.transformer import TransformerEncoder


@dataclass(frozen=True)
class SASRecSettings:
    """Architecture of SASRec; names and defaults are RecBole's."""

    n_layers: int = setting(
        2, "blocks of self-attention and feed-forward", low=1, shapes="backbone", expert=True
    )
    n_heads: int = setting(2, "attention heads", low=1, shapes="backbone", expert=True)
    hidden_size: int = setting(64, "width of states and item vectors", low=1, shapes="backbone", expert=True)
    inner_size: int = setting(
        256, "width inside the feed-forward networks", low=1, shapes="backbone", expert=True
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
    attn_dropout_prob: float = setting(
        0.5,
        "dropout of attention weights",
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
    loss_type: str = setting(
        "CE",
        "cross-entropy over the catalogue, or BPR or BCE with sampled negatives",
        choices=LOSSES,
        shapes="backbone raft",
        expert=True,
    )
    n_negatives: int = setting(
        1, "items that BPR and BCE compare a target with", low=1, shapes="backbone raft", expert=True
    )


class SASRec(CausalBackbone):
    """Self-attentive sequential recommendation.

    Parameters
    ----------
    n_items : int
        Size of the vocabulary, padding included.
    max_length : int
        Longest history.
    settings : SASRecSettings
    """

    Settings = SASRecSettings

    def __init__(self, n_items: int, max_length: int, settings: SASRecSettings) -> None:
        super().__init__(n_items, max_length, settings.hidden_size, settings.loss_type, settings.n_negatives)
        width = settings.hidden_size
        self.item_embedding = nn.Embedding(n_items, width, padding_idx=0)
        self.position_embedding = nn.Embedding(max_length, width)
        self.encoder = TransformerEncoder(
            n_layers=settings.n_layers,
            width=width,
            n_heads=settings.n_heads,
            inner=settings.inner_size,
            dropout=settings.hidden_dropout_prob,
            attn_dropout=settings.attn_dropout_prob,
            eps=settings.layer_norm_eps,
        )
        self.norm = nn.LayerNorm(width, eps=settings.layer_norm_eps)
        self.dropout = Dropout(settings.hidden_dropout_prob)
        self._initialise(settings.initializer_range)

    def _initialise(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def encode(self, items: Tensor, at: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D], or [B, P, D] at the positions ``at`` [B, P].

        State ``t`` is the encoding of items ``0 .. t``.
        """
        positions = torch.arange(items.shape[1], device=items.device)
        x = self.item_embedding(items) + self.position_embedding(positions)
        return self.encoder(self.dropout(self.norm(x)), at)

    @property
    def item_table(self) -> Tensor:
        """The vectors that states are scored against, shape [N, D]."""
        return self.item_embedding.weight
