"""CL4SRec (Xie et al., ICDE 2022): SASRec with a contrastive loss between augmented views of a history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_ra.core.setting import inherited, setting
from recbole_ra.data.batching import TrainBatch
from recbole_ra.data.table import SOURCES
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
    contrast_data: str = setting(
        "training",
        "histories whose views are contrasted: all that train, the original ones, or the others",
        choices=SOURCES,
        shapes="backbone",
        expert=True,
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
        for items, lengths in self.contrasted(batch):
            pair = two_views(
                items,
                lengths,
                crop=self.settings.crop_share,
                mask=self.settings.mask_share,
                reorder=self.settings.reorder_share,
                mask_id=self.n_items,
            )
            for states, view in zip(views, pair, strict=True):
                states.append(self.represent(*view))
        if not views[0]:
            return loss
        one, other = (torch.cat(states) for states in views)
        return loss + self.settings.lmd * info_nce(one, other, self.settings.tau)

    def contrasted(self, batch: TrainBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the histories whose views are contrasted, group by group: items [b, L], lengths [b]."""
        source = self.settings.contrast_data
        if source == "training" or batch.is_original is None:
            yield from ((group.items, group.lengths) for group in batch.groups)
            return
        sizes = [len(group.slot) for group in batch.groups]
        wanted = torch.split(batch.is_original == (source == "original"), sizes)
        for group, is_wanted in zip(batch.groups, wanted, strict=True):
            row = group.slot.div(group.at.shape[1], rounding_mode="floor")
            takes_part = torch.zeros_like(group.lengths, dtype=torch.bool)
            takes_part[row[is_wanted]] = True
            if takes_part.any():
                yield group.items[takes_part], group.lengths[takes_part]
