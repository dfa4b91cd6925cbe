"""Recommenders as RecBole's trainer and evaluator see them.

All of them score by ``state @ item_table.T + item_bias``; they differ in where the state comes from:
a backbone of ours, a model of RecBole's, or a backbone's state with retrieved memories fused in.
"""

from __future__ import annotations

from typing import Any

from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_ra.data.batching import TrainBatch
from recbole_ra.data.dataset import Fields
from recbole_ra.models.backbone import Backbone


class SequentialModel(AbstractRecommender):
    """Base: everything that follows from a state and an item table."""

    fields: Fields

    @property
    def trims(self) -> bool:
        """Whether histories may be cut to the longest of a batch: trailing padding changes no state."""
        return False

    def represent(self, interaction: Any) -> Tensor:
        """Return the state of each row, shape [B, D]."""
        raise NotImplementedError

    @property
    def item_table(self) -> Tensor:
        """Item vectors, shape [N, D]."""
        raise NotImplementedError

    @property
    def item_bias(self) -> Tensor | None:
        """Constant part of each item's score, shape [N], or None."""
        return None

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Score every item for every row, shape [B, N]."""
        scores = self.represent(interaction) @ self.item_table.T
        return scores if self.item_bias is None else scores + self.item_bias

    def predict(self, interaction: Any) -> Tensor:
        """Score the row's own item, shape [B]; the same state as :meth:`full_sort_predict`."""
        items = interaction[self.fields.item]
        scores = (self.represent(interaction) * self.item_table[items]).sum(-1)
        return scores if self.item_bias is None else scores + self.item_bias[items]


class BackboneRecommender(SequentialModel):
    """A backbone of ours behind RecBole's interface."""

    @property
    def trims(self) -> bool:
        """Yes: encoders of ours ignore what stands after a history's last item."""
        return True

    def __init__(self, backbone: Backbone, fields: Fields) -> None:
        super().__init__()
        self.backbone = backbone
        self.fields = fields

    def represent(self, interaction: Any) -> Tensor:
        """Return the state of each row, shape [B, D]."""
        return self.backbone.represent(interaction[self.fields.history], interaction[self.fields.length])

    @property
    def item_table(self) -> Tensor:
        """Item vectors, shape [N, D]."""
        return self.backbone.item_table

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []."""
        return self.backbone.calculate_loss(batch)
