"""The base of backbones: an encoder of histories and the item table that its states are scored against.

Shapes: ``B`` rows, ``L`` positions, ``T`` targets, ``D`` width, ``N`` items.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.data.batching import LengthGroup, TrainBatch
from recbole_ra.data.table import SequenceTable
from recbole_ra.models.history import HistoryBias, ItemOffsets
from recbole_ra.models.losses import LossSettings, next_item_loss
from recbole_ra.models.personalizer import Personalizer


class Backbone(nn.Module):
    """Base of every recommender whose score is the inner product of a state and an item vector.

    Items of the history get a term of their own where :meth:`learn_history_bias` was called.
    """

    causal = False
    """Whether one pass over a sequence yields the encoding of each of its prefixes."""

    contrasts = False
    """Whether a contrastive loss is added to that of ``loss_type``."""

    source = ""
    """Who published it."""

    width_setting = "hidden_size"
    """Name of the setting that is the width of its states."""

    needs_positives = False
    """Whether training batches must carry another prefix with the same target for each target."""

    def __init__(self, n_items: int, max_length: int, width: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.max_length = max_length
        self.width = width
        self.history_bias: HistoryBias | None = None
        self.personalizer: Personalizer | None = None

    def see(self, sequences: SequenceTable) -> None:
        """Look at the sequences that it will be trained on; most backbones need not."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch of training; most backbones need not."""

    def learn_history_bias(self, kind: str) -> None:
        """Give items of the history a term of their own; ``none`` takes it away."""
        self.history_bias = None if kind == "none" else HistoryBias(kind, self.width)

    def personalise(self, variant: str = "paper") -> None:
        """Give it what weighs its training targets (DR4SR+)."""
        self.personalizer = Personalizer(self.width, variant)

    def hold_items(self) -> None:
        """Keep what is made of the item vectors as it is now, in a copy that trains no more."""

    @property
    def item_table(self) -> Tensor:
        """The vectors that states are scored against, shape [N, D]."""
        raise NotImplementedError

    def represent(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Encode right-padded histories: [B, L], [B] -> [B, D]."""
        raise NotImplementedError

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []."""
        raise NotImplementedError


class EncoderBackbone(Backbone):
    """A backbone that encodes histories and is trained by the loss of predicting what follows.

    Subclasses give :meth:`encode` and :attr:`item_table`. A causal one never looks ahead: its state ``t`` is
    the encoding of items ``0 .. t``. Of others, ``causal = False``, only the state at the last item means
    something, and each prefix is a row of its own.
    """

    causal = True

    def __init__(self, n_items: int, max_length: int, width: int, loss: LossSettings) -> None:
        super().__init__(n_items, max_length, width)
        self.loss = loss

    def encode(self, items: Tensor, at: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D], or [B, P, D] at the positions ``at`` [B, P].

        ``first`` [B] are the positions in a longer history where the rows begin; by default 0.
        """
        raise NotImplementedError

    def represent(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Encode right-padded histories: [B, L], [B] -> [B, D]."""
        return self.encode(items, lengths[:, None] - 1).squeeze(1)

    def target_states(self, batch: TrainBatch) -> Tensor:
        """Return the state that predicts each target of the batch, shape [T, D]."""
        return self.states_of(batch.groups)

    def trained_states(self, batch: TrainBatch) -> Tensor:
        """Return the states from which the loss of predicting the targets is computed, shape [T, D]."""
        return self.target_states(batch)

    def states_of(self, groups: list[LengthGroup], encode: Callable[..., Tensor] | None = None) -> Tensor:
        """Encode the groups and return the states at their marked places, shape [T, D].

        ``encode`` takes what :meth:`encode` takes, which is the default.
        """
        encode = encode or self.encode
        return torch.cat([encode(g.items, g.at, g.first).flatten(0, 1)[g.slot] for g in groups])

    def recommendation_loss(self, states: Tensor, batch: TrainBatch) -> Tensor:
        """Return the loss that ``loss_type`` names, of the batch's targets with their weights, shape []."""
        return next_item_loss(
            self.loss.loss_type,
            states,
            self.item_table,
            batch.targets,
            weights=batch.weights if batch.weigh is None else batch.weigh(states),
            offsets=self._offsets(states, batch),
            n_negatives=self.loss.n_negatives,
            smoothing=self.loss.label_smoothing,
        )

    def _offsets(self, states: Tensor, batch: TrainBatch) -> ItemOffsets | None:
        """What the history bias adds to the scores of what each target's state was encoded from."""
        if self.history_bias is None:
            return None
        longest = max(group.items.shape[1] for group in batch.groups)
        histories = []
        for group in batch.groups:
            row = group.slot.div(group.at.shape[1], rounding_mode="floor")
            last = group.at.flatten()[group.slot]
            seen = torch.arange(group.items.shape[1], device=last.device) <= last[:, None]
            histories.append(F.pad(group.items[row] * seen, (0, longest - group.items.shape[1])))
        return self.history_bias(states, torch.cat(histories))

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []."""
        return self.recommendation_loss(self.trained_states(batch), batch)
