"""CL4SRec (Xie et al., ICDE 2022): SASRec with a contrastive loss between augmented views of a history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_ra.core.setting import inherited, setting
from recbole_ra.data.batching import TrainBatch
from recbole_ra.data.table import ORIGINS, SequenceTable, split_origins
from recbole_ra.models.augmentation import two_views
from recbole_ra.models.encoders import ContrastSettings
from recbole_ra.models.losses import info_nce
from recbole_ra.models.origins import origins_setting, rows_of
from recbole_ra.models.sasrec import SASRec, SASRecSettings


@dataclass(frozen=True)
class CL4SRecSettings(ContrastSettings, SASRecSettings):
    """SASRec's architecture and the contrastive term, with the authors' shares of its augmentations.

    Their weight of the term is .1, beside binary cross-entropy, and what they contrast are last states; the
    authors of DR4SR contrast mean states. The defaults do less harm beside cross-entropy (docs/results.md).
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
    contrast_pooling: str = setting(
        "mean",
        "what of a view is contrasted: the state after its last item, or the mean of its states",
        choices=("last", "mean"),
        shapes="backbone",
        expert=True,
    )
    contrast_origins: str = origins_setting("whose views are contrasted")


class CL4SRec(SASRec):
    """``L = L_rec + lmd * InfoNCE`` between two views of each history, made by two of three operators."""

    Settings = CL4SRecSettings
    source = "Xie et al., ICDE 2022"
    contrasts = True

    contrasts_origin: Tensor

    def __init__(self, n_items: int, max_length: int, settings: CL4SRecSettings) -> None:
        super().__init__(n_items, max_length, settings)
        self.settings = settings
        self.mask_vector = nn.Parameter(torch.empty(settings.hidden_size))
        nn.init.normal_(self.mask_vector, std=0.1)
        wanted = split_origins(settings.contrast_origins)
        self.register_buffer(
            "contrasts_origin", torch.tensor([name in wanted for name in ORIGINS]), persistent=False
        )

    def see(self, sequences: SequenceTable) -> None:
        """Refuse views of rows that do not train."""
        rows_of(sequences, "contrast_origins", self.settings.contrast_origins)

    def vectors(self, items: Tensor) -> Tensor:
        """Return the vectors of the items of a history; the id after the last stands for a masked item."""
        masked = items == self.n_items
        vectors = super().vectors(items.masked_fill(masked, 0))
        return torch.where(masked[..., None], self.mask_vector, vectors)

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape [].

        The contrastive term is the mean over the histories that it is of, however few; without any it is 0.
        """
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
                states.append(self.pooled(*view))
        if not views[0]:
            return loss
        one, other = (torch.cat(states) for states in views)
        return loss + self.settings.lmd * info_nce(one, other, self.settings.tau)

    def pooled(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Encode views, right-padded: items [b, L], lengths [b] -> [b, D]."""
        if self.settings.contrast_pooling == "last":
            return self.represent(items, lengths)
        inside = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        return (self.encode(items) * inside[..., None]).sum(1) / lengths[:, None]

    def contrasted(self, batch: TrainBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the histories whose views are contrasted, group by group: items [b, L], lengths [b]."""
        for group in batch.groups:
            takes_part = self.contrasts_origin[group.origin.long()]
            if takes_part.any():
                yield group.items[takes_part], group.lengths[takes_part]
