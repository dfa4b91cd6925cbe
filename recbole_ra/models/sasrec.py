"""SASRec (Kang & McAuley, ICDM 2018), as published, or with RecBole's or torch's layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from recbole_ra.core.setting import inherited, setting
from recbole_ra.models.encoders import AttentionSettings, EmbeddedBackbone
from recbole_ra.models.transformer import LAYOUTS, SelfAttention, TransformerEncoder


@dataclass(frozen=True)
class SASRecSettings(AttentionSettings):
    """Architecture of SASRec; names are RecBole's."""

    layout: str = setting(
        "published",
        "layers and initialisation: as published, or as RecBole or DR4SR's authors (torch) have them "
        "(there initializer_range counts)",
        choices=LAYOUTS,
        shapes="backbone",
        expert=True,
    )
    positions: str = inherited(AttentionSettings, "positions", "end")
    n_heads: int = inherited(AttentionSettings, "n_heads", 1)
    inner_size: int = inherited(AttentionSettings, "inner_size", 64)
    hidden_dropout_prob: float = inherited(AttentionSettings, "hidden_dropout_prob", 0.6)
    attn_dropout_prob: float = inherited(AttentionSettings, "attn_dropout_prob", 0.6)


class SASRec(EmbeddedBackbone):
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
    source = "Kang & McAuley, ICDM 2018"

    def __init__(self, n_items: int, max_length: int, settings: SASRecSettings) -> None:
        super().__init__(n_items, max_length, settings)
        self.layout = settings.layout
        self.published = self.layout == "published"
        self.encoder = TransformerEncoder(
            n_layers=settings.n_layers,
            width=settings.hidden_size,
            n_heads=settings.n_heads,
            inner=settings.inner_size,
            dropout=settings.hidden_dropout_prob,
            attn_dropout=settings.attn_dropout_prob,
            eps=settings.layer_norm_eps,
            layout=settings.layout,
        )
        if self.layout != "recbole":
            self.norm = nn.Identity()
        self.initialise(settings.initializer_range)

    def initialise(self, std: float) -> None:
        """Draw the weights anew: by Xavier's rule as published, else normal."""
        super().initialise(std)
        if self.published:
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.xavier_normal_(module.weight)
        if self.layout == "torch":  # whose attention draws its projections itself
            for attention in self.encoder.attentions:
                assert isinstance(attention, SelfAttention), "what the encoder is made of"
                nn.init.xavier_uniform_(attention.qkv.weight)

    def vectors(self, items: Tensor) -> Tensor:
        """Return the vectors of the items of a history, [B, L] -> [B, L, D]; as published times √D."""
        vectors = super().vectors(items)
        return vectors * self.width**0.5 if self.published else vectors

    def encode(self, items: Tensor, at: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D], or [B, P, D] at the positions ``at`` [B, P].

        State ``t`` is the encoding of items ``0 .. t``.
        """
        return self.encoder(self.embed(items, first), at)
