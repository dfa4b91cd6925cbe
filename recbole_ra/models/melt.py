"""MELT (Kim et al., SIGIR 2023): what head users and head items know is carried over to the tail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_ra.core.setting import inherited, setting
from recbole_ra.data.batching import TrainBatch
from recbole_ra.data.table import IntArray, SequenceTable
from recbole_ra.models.encoders import EmbeddedBackbone
from recbole_ra.models.fmlprec import FMLPRec, FMLPRecSettings
from recbole_ra.models.long_tail import LongTail
from recbole_ra.models.sasrec import SASRec, SASRecSettings

ITEM_SPAN = 50
"""Interactions beyond the limit of the tail at which an item counts as the most frequent, as published."""

BLOCK = 8192
"""Contexts that are encoded at once where no gradient is asked for."""


@dataclass(frozen=True)
class MELTSettings:
    """The two branches; names are the authors', defaults those of their Amazon Beauty."""

    pareto_rule: float = setting(
        0.8, "share of users, and of items, that are the tail", low=0, high=1, shapes="backbone", expert=True
    )
    lamb_u: float = setting(
        0.1,
        "weight of the branch of users",
        low=0,
        shapes="backbone",
        while_training=True,
        expert=True,
    )
    lamb_i: float = setting(
        0.4,
        "weight of the branch of items",
        low=0,
        shapes="backbone",
        while_training=True,
        expert=True,
    )
    e_max: int = setting(
        180,
        "epochs in which the branches turn from the longest and most frequent to those next to the tail",
        low=1,
        shapes="backbone",
        expert=True,
    )


@dataclass(frozen=True)
class MELTSASRecSettings(MELTSettings, SASRecSettings):
    """SASRec's architecture and the branches."""


@dataclass(frozen=True)
class MELTFMLPRecSettings(MELTSettings, FMLPRecSettings):
    """FMLP-Rec's architecture and the branches."""

    lamb_u: float = inherited(MELTSettings, "lamb_u", 0.2)
    lamb_i: float = inherited(MELTSettings, "lamb_i", 0.1)
    e_max: int = inherited(MELTSettings, "e_max", 200)


class MELT(EmbeddedBackbone):
    """Two branches beside a backbone, ``L = L_rec + lamb_u L_u + lamb_i L_i``; comes before it in a class.

    ``L_u``: of a head user, ``W_U`` of the state after the latest few items should be the state after all.
    ``L_i``: of a head item, ``W_I`` of the mean state of a few of its contexts, each with ``W_U`` added,
    should be its vector. Weights of users and items move with the epochs (a curriculum).

    Branches enhance each other: a state of a short history is ``h + W_U h``, and each epoch begins with the
    vectors of tail items as ``W_I`` of their contexts.
    """

    user_limit: Tensor

    def __init__(self, n_items: int, max_length: int, settings: Any) -> None:
        super().__init__(n_items, max_length, settings)
        self.settings: MELTSettings = settings
        self.user_branch = nn.Linear(self.width, self.width)
        self.item_branch = nn.Linear(self.width, self.width)
        for branch in (self.user_branch, self.item_branch):
            nn.init.xavier_normal_(branch.weight)
            nn.init.zeros_(branch.bias)
        self.register_buffer("user_limit", torch.zeros((), dtype=torch.int64))
        self.tail: LongTail | None = None
        self.progress = 0.0

    def see(self, sequences: SequenceTable) -> None:
        """Find the head and the tail of the sequences that it is trained on."""
        self.tail = LongTail.of(sequences, self.max_length, self.settings.pareto_rule)
        self.user_limit.fill_(self.tail.user_limit)

    def encode(self, items: Tensor, at: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """[B, L] -> [B, L, D], or [B, P, D] at the places ``at`` [B, P]; of short histories enhanced."""
        states = self._plain(items, at, first)
        place = torch.arange(items.shape[1], device=items.device) if at is None else at
        short = place < self.user_limit
        return states + short[..., None] * self.user_branch(states)

    def trained_states(self, batch: TrainBatch) -> Tensor:
        """Encode training targets as the backbone does, [T, D]; what is enhanced is used, not trained."""
        return self.states_of(batch.groups, self._plain)

    def _plain(self, items: Tensor, at: Tensor | None = None, first: Tensor | None = None) -> Tensor:
        """Encode as the backbone does."""
        device = self.user_limit.device
        return super().encode(items.to(device), None if at is None else at.to(device), first)

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Move the curriculum, and give tail items the vectors that their contexts say."""
        self.progress = min(1.0, epoch / self.settings.e_max)
        tail, was_training = self.tail, self.training
        if tail is None or not epoch or not len(tail.tail_items):  # at first the branches know nothing
            return
        self.eval()
        ends, owner = tail.contexts(tail.tail_items)
        sums = self.item_table.new_zeros(len(tail.tail_items), self.width)
        for first in range(0, len(ends), BLOCK):
            block = slice(first, first + BLOCK)
            states = tail.encode(self._plain, ends[block], tail.lengths(ends[block]))
            sums.index_add_(0, self._tensor(owner[block]), states.to(sums.dtype))
        counts = self._tensor(tail.frequency(tail.tail_items))[:, None]
        self.item_embedding.weight[self._tensor(tail.tail_items)] = self.item_branch(sums / counts)
        self.train(was_training)

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []; its share of heads is that of its targets."""
        loss = super().calculate_loss(batch)
        if self.tail is None:
            return loss
        share = len(batch.targets) / max(self.tail.n_targets, 1)
        settings, tail = self.settings, self.tail
        loss = loss + settings.lamb_u * self.user_loss(_drawn(tail.head_users, share))
        return loss + settings.lamb_i * self.item_loss(_drawn(tail.head_items, share))

    def user_loss(self, users: IntArray) -> Tensor:
        """Return ``L_u`` of some head users, shape []."""
        tail = self._seen()
        ends = tail.table.offsets[users + 1] - 1
        lengths = tail.lengths(ends)
        few = 1 + (torch.rand(len(users)).numpy() * max(tail.user_limit - 1, 1)).astype(np.int64)
        both = tail.encode(self._plain, np.tile(ends, 2), np.concatenate([few, lengths]))
        latest, whole = both[: len(users)], both[len(users) :]
        span = self.max_length - tail.user_limit - 1
        return self._weighed(self.user_branch(latest) - whole, lengths - tail.user_limit - 1, span)

    def item_loss(self, items: IntArray) -> Tensor:
        """Return ``L_i`` of some head items, shape []."""
        tail = self._seen()
        ends, owner = tail.draw_contexts(items)
        states = tail.encode(self._plain, ends, tail.lengths(ends))
        states = states + self.user_branch(states)
        sums = states.new_zeros(len(items), self.width).index_add(0, self._tensor(owner), states)
        counts = self._tensor(np.bincount(owner, minlength=len(items)))[:, None]
        wrong = self.item_branch(sums / counts) - self.item_table[self._tensor(items)]
        beyond = np.minimum(tail.frequency(items), tail.item_limit + ITEM_SPAN) - tail.item_limit - 1
        return self._weighed(wrong, beyond, ITEM_SPAN)

    def _weighed(self, wrong: Tensor, beyond: IntArray, span: int) -> Tensor:
        """Return the mean square of errors, each weighed by the curriculum, shape [].

        At first the largest count, at ``e_max`` those next to the tail.

        Parameters
        ----------
        wrong : Tensor, shape [rows, D]
        beyond : int64 array, shape [rows]
            How far above the limit of the tail each stands.
        span : int
            The farthest.
        """
        angle = math.pi / 2 * (self.progress + self._tensor(beyond) / max(span, 1))
        weights = angle.sin().abs().to(torch.float32)[:, None]
        return (weights * wrong.float().square()).mean()

    def _seen(self) -> LongTail:
        assert self.tail is not None, "see() was called"
        return self.tail

    def _tensor(self, values: IntArray) -> Tensor:
        return torch.from_numpy(values).to(self.user_limit.device)


def _drawn(heads: IntArray, share: float) -> IntArray:
    """Draw a share of the heads, at least one of them."""
    count = max(1, round(share * len(heads)))
    return heads[torch.randperm(len(heads))[:count].numpy()]


class MELTSASRec(MELT, SASRec):
    """MELT on SASRec."""

    Settings = MELTSASRecSettings
    source = "Kim et al., SIGIR 2023"


class MELTFMLPRec(MELT, FMLPRec):
    """MELT on FMLP-Rec."""

    Settings = MELTFMLPRecSettings
    source = "Kim et al., SIGIR 2023"
