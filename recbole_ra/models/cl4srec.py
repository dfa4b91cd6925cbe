"""CL4SRec (Xie et al., ICDE 2022): SASRec with a contrastive loss between augmented views of a history."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_ra.core.setting import inherited, setting
from recbole_ra.data.batching import TrainBatch
from recbole_ra.models.augmentation import two_views
from recbole_ra.models.encoders import ContrastSettings
from recbole_ra.models.losses import info_nce
from recbole_ra.models.sasrec import SASRec, SASRecSettings


@dataclass(frozen=True)
class CL4SRecSettings(ContrastSettings, SASRecSettings):
    """SASRec's architecture and the contrastive term, with the authors' shares of its augmentations.

    The authors' weight of the term, .1 beside binary cross-entropy, does more harm beside cross-entropy
    (docs/results.md).
    """

    lmd: float = inherited(ContrastSettings, "lmd", 0.01)
    crop_share: float = setting(
        0.6, "share of a history that a crop keeps", low=0, high=1, shapes="backbone", expert=True
    )
    mask_share: float = setting(
        0.3, "share of its items that are masked", low=0, high=1, shapes="backbone", expert=True
    )
    reorder_share: float = setting(
        0.6, "share of it that is reordered", low=0, high=1, shapes="backbone", expert=True
    )


class CL4SRec(SASRec):
    """``L = L_rec + lmd * InfoNCE`` between two views of each history, made by two of three operators."""

    Settings = CL4SRecSettings
    source = "Xie et al., ICDE 2022"
    contrasts = True

    def __init__(self, n_items: int, max_length: int, settings: CL4SRecSettings) -> None:
        super().__init__(n_items, max_length, settings)
        self.settings = settings
        self.mask_vector = nn.Parameter(torch.empty(settings.hidden_size))
        nn.init.normal_(self.mask_vector, std=0.1)

    def vectors(self, items: Tensor) -> Tensor:
        """Return the vectors of the items of a history; the id after the last stands for a masked item."""
        masked = items == self.n_items
        vectors = super().vectors(items.masked_fill(masked, 0))
        return torch.where(masked[..., None], self.mask_vector, vectors)

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []."""
        loss = super().calculate_loss(batch)
        if self.settings.lmd == 0:
            return loss
        views: tuple[list[Tensor], list[Tensor]] = ([], [])
        for group in batch.groups:
            pair = two_views(
                group.items,
                group.lengths,
                crop=self.settings.crop_share,
                mask=self.settings.mask_share,
                reorder=self.settings.reorder_share,
                mask_id=self.n_items,
            )
            for states, (items, lengths) in zip(views, pair, strict=True):
                states.append(self.represent(items, lengths))
        one, other = (torch.cat(states) for states in views)
        return loss + self.settings.lmd * info_nce(one, other, self.settings.tau)
