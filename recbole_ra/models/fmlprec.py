"""FMLP-Rec (Zhou et al., WWW 2022): learned filters over time in place of attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from recbole_ra.core.setting import inherited
from recbole_ra.models.encoders import EmbeddedBackbone, EncoderSettings
from recbole_ra.models.filters import LearnedFilter
from recbole_ra.models.transformer import FeedForward


@dataclass(frozen=True)
class FMLPRecSettings(EncoderSettings):
    """Architecture of FMLP-Rec; names are RecBole's."""

    positions: str = inherited(EncoderSettings, "positions", "end")


class FMLPRec(EmbeddedBackbone):
    """Filter-enhanced blocks; a filter sees the whole history, so rows are trained prefix by prefix.

    Padding takes no part in a filter, where the authors' code filters its position vectors too.
    """

    Settings = FMLPRecSettings
    source = "Zhou et al., WWW 2022"
    causal = False

    def __init__(self, n_items: int, max_length: int, settings: FMLPRecSettings) -> None:
        super().__init__(n_items, max_length, settings)
        width, dropout, eps = settings.hidden_size, settings.hidden_dropout_prob, settings.layer_norm_eps
        layers = range(settings.n_layers)
        self.filters = nn.ModuleList(
            LearnedFilter(max_length=max_length, width=width, dropout=dropout, eps=eps) for _ in layers
        )
        self.feed_forwards = nn.ModuleList(
            FeedForward(width=width, inner=settings.inner_size, dropout=dropout, eps=eps) for _ in layers
        )
        self.initialise(settings.initializer_range)

    def encode(self, items: Tensor, at: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D], or [B, P, D] at the places ``at`` [B, P]; states of whole histories."""
        x, there = self.embed(items, first), (items > 0)[:, :, None]
        last = len(self.filters) - 1
        for number, (mix, feed_forward) in enumerate(zip(self.filters, self.feed_forwards, strict=True)):
            x = feed_forward(mix(x, there, at if number == last else None))
        return x
