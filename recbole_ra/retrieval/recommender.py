"""The retrieval-augmented recommender: a backbone, a memory bank and the module that fuses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_ra.core.seeding import stream
from recbole_ra.data.batching import Movable
from recbole_ra.data.dataset import EXACT_TIME_FIELD, OWNER_FIELD, PREFIX_FIELD, Fields
from recbole_ra.models.history import ItemOffsets
from recbole_ra.models.losses import next_item_loss
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.retrieval.fusion import Fusion
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.mixture import Mixture, TransitionMixture
from recbole_ra.retrieval.neighbours import Queries, find_neighbours, random_neighbours
from recbole_ra.retrieval.retrieved import Memories, Retrieved
from recbole_ra.retrieval.transitions import Transitions

ALIGNMENT_WEIGHT = 0.1
"""Weight of the loss that teaches attention which neighbours help (``fusion=entropy``)."""

CELLS = 1 << 20
"""Scores held at once where only their entropy is wanted."""


@dataclass
class RaftBatch(Movable):
    """One step of fine-tuning: queries and the items that followed, shape [B]."""

    query: Any
    targets: Tensor


class RetrievalRecommender(SequentialModel):
    """``h~ = alpha h + (1 - alpha) RAM(h, memories)`` over any recommender (METHOD 5).

    A query is either a RecBole ``Interaction`` (the state is encoded and its neighbours are
    searched now) or a :class:`Retrieved` (both are known); scores of the two are equal.

    Parameters
    ----------
    base : SequentialModel
        The backbone; frozen unless ``finetune_all``.
    fusion : Fusion or None
        Fuses memories into states.
    mixture : Mixture or None
        Mixes what memories say into the scores of states, fused ones where there is a fusion.
    bank : MemoryBank
    fields : Fields
    n_neighbors : int
    scope : str
        ``any`` or ``past`` (METHOD 4).
    loss_type, n_negatives
        See :func:`recbole_ra.models.losses.next_item_loss`.
    finetune_all : bool
    at_random : bool
        Take any memories that a query may see, not the nearest: the control that shows what retrieval does.
    """

    def __init__(
        self,
        base: SequentialModel,
        fusion: Fusion | None,
        mixture: Mixture | None,
        bank: MemoryBank,
        *,
        fields: Fields,
        n_neighbors: int,
        scope: str,
        loss_type: str,
        n_negatives: int = 1,
        finetune_all: bool,
        at_random: bool = False,
    ) -> None:
        super().__init__()
        self.base = base
        self.fusion = fusion
        self.mixture = mixture
        self.fields = fields
        self.n_neighbors = n_neighbors
        self.scope = scope
        self.loss_type = loss_type
        self.n_negatives = n_negatives
        self.finetune_all = finetune_all
        self.at_random = at_random
        self.base.requires_grad_(finetune_all)
        self.set_bank(bank)

    def set_bank(self, bank: MemoryBank, transitions: Transitions | None = None) -> None:
        """Use another bank from now on; its transitions are counted unless they are known."""
        self.bank = bank
        device = self.base.item_table.device
        keys, values = bank.keys, bank.values
        if not len(bank):  # a place that holds no memory looks up the first one
            keys, values = np.zeros((1, keys.shape[1]), keys.dtype), np.zeros(1, values.dtype)
        self._keys = torch.from_numpy(keys).to(device)
        self._values = torch.from_numpy(values).to(device)
        if isinstance(self.mixture, TransitionMixture):
            self.mixture.transitions = transitions or Transitions(
                bank.recent, bank.values, len(self.base.item_table)
            )

    @property
    def transitions(self) -> Transitions | None:
        """What was counted of the bank, where transitions are mixed in."""
        return self.mixture.transitions if isinstance(self.mixture, TransitionMixture) else None

    def remember(self, **columns: NDArray[Any]) -> None:
        """Add memories to the bank; columns as :meth:`MemoryBank.add` takes them."""
        known = self.transitions
        if known is not None:
            known.add(columns["recent"], columns["values"])
        self.bank.add(**columns)
        self.set_bank(self.bank, known)

    def train(self, mode: bool = True) -> RetrievalRecommender:
        """Train mode; a frozen backbone stays as it is evaluated."""
        super().train(mode)
        if not self.finetune_all:
            self.base.eval()
        return self

    @property
    def trims(self) -> bool:
        """As the backbone."""
        return self.base.trims

    @property
    def keeps_backbone(self) -> bool:
        """Whether memories have no weight."""
        fuses = self.fusion is not None and float(self.fusion.alpha) < 1
        return not fuses and (self.mixture is None or self.mixture.is_off)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the own state and of the softmax, as settings name them."""
        found = {} if self.fusion is None else {"alpha": float(self.fusion.alpha)}
        return found if self.mixture is None else {**found, "mixture_weight": float(self.mixture.weight)}

    @property
    def needs_histories(self) -> bool:
        """Whether a query has to tell the items of its history."""
        return isinstance(self.mixture, TransitionMixture) or self.base.has_history_bias

    @property
    def mixes_transitions(self) -> bool:
        """Whether transitions have a share in the scores."""
        return isinstance(self.mixture, TransitionMixture) and not self.mixture.is_off

    @property
    def item_table(self) -> Tensor:
        """Item vectors, shape [N, D]."""
        return self.base.item_table

    @property
    def item_bias(self) -> Tensor | None:
        """Constant part of each item's score, shape [N], or None."""
        return self.base.item_bias

    def retrieve(self, states: Tensor, queries: Queries) -> Retrieved:
        """Find the memories of encoded rows.

        Parameters
        ----------
        states : Tensor, shape [B, D]
        queries : Queries
            What eligibility asks about the rows.
        """
        find = random_neighbours if self.at_random else find_neighbours
        found = find(self.bank, states.detach().cpu().numpy(), queries, k=self.n_neighbors, scope=self.scope)
        return Retrieved.of(states, found)

    def query(self, interaction: Any) -> Retrieved:
        """Encode the histories of an ``Interaction`` and find their memories."""
        columns = interaction.columns
        owner = OWNER_FIELD if OWNER_FIELD in columns else self.fields.user
        lengths = PREFIX_FIELD if PREFIX_FIELD in columns else self.fields.length
        queries = Queries(
            users=interaction[owner].cpu().numpy(),
            lengths=interaction[lengths].cpu().numpy(),
            times=interaction[EXACT_TIME_FIELD].cpu().numpy() if EXACT_TIME_FIELD in columns else None,
        )
        found = self.retrieve(self.base.represent(interaction), queries)
        found.histories = interaction[self.fields.history]
        return found

    def memories(self, query: Any) -> Memories:
        """Look up what was retrieved; asked after the query's states, which tell the item vectors."""
        return Memories(self._keys, self.item_table, query.ids, self._values[query.ids], query.valid)

    def represent(self, interaction: Any) -> Tensor:
        """Return the fused state of each row, shape [B, D]."""
        return self.scored(interaction)[0]

    def scored(self, interaction: Any) -> tuple[Tensor, ItemOffsets | None]:
        """Return the fused states, shape [B, D], and what a few items get besides."""
        known = isinstance(interaction, Retrieved | EncodedQuery)
        query = interaction if known else self.query(interaction)
        states = query.states  # first: RecBole's models tell their item vectors as they encode
        memories = self.memories(query)
        offsets = self.base.history_offsets(states, query.histories)
        states = self.fused(states, memories)
        if self.mixture is None or self.mixture.is_off or self.training:
            return states, offsets
        mixed = self.mixture.offsets(self.scores_of(states, offsets), *self.mixture.shares(query, memories))
        return states, mixed if offsets is None else offsets.joined(mixed)

    def fused(self, states: Tensor, memories: Memories) -> Tensor:
        """Fuse memories into states, [B, D] -> [B, D]; without a fusion they stay as they are."""
        if self.fusion is None:
            return states
        return self.fusion(states, memories.keys, memories.values, memories.valid, self.entropy)

    def calculate_loss(self, batch: RaftBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []."""
        states, offsets = self.scored(batch.query)  # first: RecBole's models tell their item vectors so
        loss = next_item_loss(
            self.loss_type,
            states,
            self.item_table,
            batch.targets,
            bias=self.item_bias,
            offsets=offsets,
            n_negatives=self.n_negatives,
        )
        if self.fusion is None or self.fusion.kind != "entropy":
            return loss
        own, memories = batch.query.states, self.memories(batch.query)
        facts = memories.keys, memories.values, memories.valid
        return loss + ALIGNMENT_WEIGHT * self.fusion.alignment_loss(
            own, *facts, self.item_table[batch.targets]
        )

    @torch.no_grad()
    def entropy(self, states: Tensor) -> Tensor:
        """Entropy of the softmax of the scores of states, in nats, [B, D] -> [B]; block by block."""
        found = []
        for part in torch.split(states, max(1, CELLS // len(self.item_table))):
            log = self.scores_of(part, None).log_softmax(1)
            found.append(-(log.exp() * log).sum(1))
        return torch.cat(found)


class RaftBatches:
    """Random batches of fine-tuning.

    Parameters
    ----------
    start_epoch : callable
        Called at the start of each epoch; returns what turns rows, shape [b], into a query. With a
        frozen backbone that is a look-up in a :class:`Retrieved` of all rows.
    targets : int64 Tensor, shape [rows]
    batch_size, seed : int
    """

    def __init__(
        self,
        start_epoch: Callable[[], Callable[[Tensor], Any]],
        targets: Tensor,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self.start_epoch = start_epoch
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __iter__(self) -> Iterator[RaftBatch]:
        query = self.start_epoch()
        order = torch.from_numpy(stream(self.seed, "raft", self.epoch).permutation(len(self.targets)))
        self.epoch += 1
        for rows in torch.split(order, self.batch_size):
            yield RaftBatch(query(rows), self.targets[rows])


@dataclass
class EncodedQuery(Movable):
    """A query with known neighbours, whose state is encoded with gradients at each access."""

    recommender: RetrievalRecommender
    interaction: Any
    ids: Tensor
    valid: Tensor

    @property
    def states(self) -> Tensor:
        """The state of each row, shape [B, D]."""
        return self.recommender.base.represent(self.interaction)

    @property
    def histories(self) -> Tensor:
        """Items of each row's history, shape [B, L]."""
        return self.interaction[self.recommender.fields.history]
