"""BSARec (Shin et al., AAAI 2024): attention mixed with a rescaler of frequencies."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from recbole_ra.core.setting import inherited, setting
from recbole_ra.models.encoders import AttentionSettings, EmbeddedBackbone
from recbole_ra.models.filters import FrequencyRescaler
from recbole_ra.models.transformer import FeedForward, SelfAttention


@dataclass(frozen=True)
class BSARecSettings(AttentionSettings):
    """Architecture of BSARec; names of what it adds are the authors', but ``bsa_alpha`` (their alpha)."""

    positions: str = inherited(AttentionSettings, "positions", "end")
    n_heads: int = inherited(AttentionSettings, "n_heads", 1)
    attn_dropout_prob: float = inherited(AttentionSettings, "attn_dropout_prob", 0.0)
    bsa_alpha: float = setting(
        0.7,
        "share of the filter against attention",
        low=0,
        high=1,
        shapes="backbone",
        expert=True,
    )
    c: int = setting(
        5, "the lowest c // 2 + 1 frequencies are kept as they are", low=0, shapes="backbone", expert=True
    )


class BSARec(EmbeddedBackbone):
    """Beyond-self-attention blocks; a filter sees the whole history, so rows are trained prefix by prefix.

    Padding takes no part in a filter, where the authors' code filters its position vectors too.
    """

    Settings = BSARecSettings
    source = "Shin et al., AAAI 2024"
    causal = False

    def __init__(self, n_items: int, max_length: int, settings: BSARecSettings) -> None:
        super().__init__(n_items, max_length, settings)
        width, dropout, eps = settings.hidden_size, settings.hidden_dropout_prob, settings.layer_norm_eps
        layers = range(settings.n_layers)
        self.share = settings.bsa_alpha
        self.filters = nn.ModuleList(
            FrequencyRescaler(
                max_length=max_length, width=width, kept=settings.c // 2 + 1, dropout=dropout, eps=eps
            )
            for _ in layers
        )
        self.attentions = nn.ModuleList(
            SelfAttention(
                width=width,
                n_heads=settings.n_heads,
                dropout=dropout,
                attn_dropout=settings.attn_dropout_prob,
                eps=eps,
            )
            for _ in layers
        )
        self.feed_forwards = nn.ModuleList(
            FeedForward(width=width, inner=settings.inner_size, dropout=dropout, eps=eps) for _ in layers
        )
        self.initialise(settings.initializer_range)

    def encode(self, items: Tensor, at: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D], or [B, P, D] at the places ``at`` [B, P]; states of whole histories."""
        x, there = self.embed(items, first), (items > 0)[:, :, None]
        blocks = list(zip(self.filters, self.attentions, self.feed_forwards, strict=True))
        for number, (mix, attention, feed_forward) in enumerate(blocks, start=1):
            asked = at if number == len(blocks) else None
            filtered, attended = mix(x, there, asked), attention(x, asked)
            x = feed_forward(self.share * filtered + (1 - self.share) * attended)
        return x
