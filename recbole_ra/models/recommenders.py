"""Recommenders as RecBole's trainer and evaluator see them.

All of them score by ``state @ item_table.T + item_bias``, and what is added for a few items of each row;
they differ in where the state comes from: a backbone of ours, a model of RecBole's, or a backbone's state
with retrieved memories fused in.
"""

from __future__ import annotations

from typing import Any

from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_ra.data.batching import TrainBatch
from recbole_ra.data.dataset import Fields
from recbole_ra.models.backbone import Backbone
from recbole_ra.models.history import ItemOffsets


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

    @property
    def has_history_bias(self) -> bool:
        """Whether items of the history have a learned term of their own."""
        return False

    def history_offsets(self, states: Tensor, histories: Tensor | None) -> ItemOffsets | None:
        """Return what is added to the scores of items of the history, where it was learned.

        Parameters
        ----------
        states : Tensor, shape [B, D]
            As :meth:`represent` gives them.
        histories : int64 Tensor, shape [B, L]
            Items of each row's history in any order, 0 = none; may be missing where nothing was learned.
        """
        return None

    def scored(self, interaction: Any) -> tuple[Tensor, ItemOffsets | None]:
        """Return what every score is made of: states, shape [B, D], and what a few items get besides."""
        states = self.represent(interaction)
        return states, self.history_offsets(states, interaction[self.fields.history])

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Score every item for every row, shape [B, N]."""
        return self.scores_of(*self.scored(interaction))

    def scores_of(self, states: Tensor, offsets: ItemOffsets | None) -> Tensor:
        """Score every item for states, shape [B, N]; arguments as :meth:`scored` gives them."""
        scores = states @ self.item_table.T
        if self.item_bias is not None:
            scores = scores + self.item_bias
        return scores if offsets is None else offsets.add_to(scores)

    def predict(self, interaction: Any) -> Tensor:
        """Score the row's own item, shape [B]; the same score as in :meth:`full_sort_predict`."""
        items = interaction[self.fields.item]
        states, offsets = self.scored(interaction)
        scores = (states * self.item_table[items]).sum(-1)
        if self.item_bias is not None:
            scores = scores + self.item_bias[items]
        return scores if offsets is None else scores + offsets.of(items[:, None])[:, 0]


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
    def has_history_bias(self) -> bool:
        """Whether the backbone learned one."""
        return self.backbone.history_bias is not None

    def history_offsets(self, states: Tensor, histories: Tensor | None) -> ItemOffsets | None:
        """Return what the backbone's history bias adds, where it has one."""
        bias = self.backbone.history_bias
        return None if bias is None else bias(states, histories)

    @property
    def item_table(self) -> Tensor:
        """Item vectors, shape [N, D]."""
        return self.backbone.item_table

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch of training."""
        self.backbone.begin_epoch(epoch)

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []."""
        return self.backbone.calculate_loss(batch)
