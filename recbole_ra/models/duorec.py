"""DuoRec (Qiu et al., WSDM 2022): SASRec with a contrastive loss between views of one target.

This is also RaSeRec's collaborative-based pre-training (METHOD 3).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recbole_ra.core.setting import inherited, setting
from recbole_ra.data.batching import TrainBatch
from recbole_ra.models.encoders import ContrastSettings
from recbole_ra.models.losses import info_nce
from recbole_ra.models.sasrec import SASRec, SASRecSettings


@dataclass(frozen=True)
class DuoRecSettings(ContrastSettings, SASRecSettings):
    """SASRec's architecture, by default in RecBole's layout as published, and the contrastive term.

    ``contrast`` is ``us_x`` (unsupervised view against supervised view), ``us`` (unsupervised view
    against the state itself), ``su`` (supervised view against the state itself) or ``none``.
    """

    layout: str = inherited(SASRecSettings, "layout", "recbole")
    positions: str = inherited(SASRecSettings, "positions", "start")
    n_heads: int = inherited(SASRecSettings, "n_heads", 2)
    inner_size: int = inherited(SASRecSettings, "inner_size", 256)
    hidden_dropout_prob: float = inherited(SASRecSettings, "hidden_dropout_prob", 0.5)
    attn_dropout_prob: float = inherited(SASRecSettings, "attn_dropout_prob", 0.5)
    contrast: str = setting(
        "us_x",
        "views that are contrasted",
        choices=("us_x", "us", "su", "none"),
        shapes="backbone",
        expert=True,
    )


class DuoRec(SASRec):
    """``L = L_rec + lmd * InfoNCE`` between an unsupervised and a supervised view.

    The unsupervised view is the same prefix under another dropout mask; the supervised view is
    another prefix with the same target, or the prefix itself where the target occurs once.
    """

    Settings = DuoRecSettings
    source = "Qiu et al., WSDM 2022; RaSeRec pre-trains with it"
    contrasts = True

    def __init__(self, n_items: int, max_length: int, settings: DuoRecSettings) -> None:
        super().__init__(n_items, max_length, settings)
        self.contrast = settings.contrast
        self.lmd = settings.lmd
        self.tau = settings.tau
        self.needs_positives = settings.contrast in ("us_x", "su") and settings.lmd > 0

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []."""
        states = self.target_states(batch)
        loss = self.recommendation_loss(states, batch)
        if self.contrast == "none" or self.lmd == 0:
            return loss
        one = self.target_states(batch) if self.contrast in ("us_x", "us") else states
        other = self.positive_states(batch) if self.needs_positives else states
        return loss + self.lmd * info_nce(one, other, self.tau)

    def positive_states(self, batch: TrainBatch) -> Tensor:
        """Return the supervised view of each target, shape [T, D]."""
        return self.states_of(batch.positives)[batch.positive_order]
