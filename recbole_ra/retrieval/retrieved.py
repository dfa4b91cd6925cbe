"""What rows retrieved: places in the memory bank, and the vectors that they stand for."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.data.batching import Movable
from recbole_ra.retrieval.neighbours import Neighbours


@dataclass
class Retrieved(Movable):
    """States whose neighbours are known.

    Attributes
    ----------
    states : Tensor, shape [B, D]
    ids : int64 Tensor, shape [B, K]
        Rows of the memory bank.
    valid : bool Tensor, shape [B, K]
    histories : int64 Tensor, shape [B, L], optional
        Items of each row's history, oldest first, 0 = none; where a history bias was learned or transitions
        are mixed in.
    voters : int64 Tensor, shape [B, L], optional
        Items whose transitions count; by default those of the history.
    followed : int64 Tensor, shape [B], optional
        What followed each row, where the bank remembers that: a row's own memory says nothing to it.
    """

    states: Tensor
    ids: Tensor
    valid: Tensor
    histories: Tensor | None = None
    voters: Tensor | None = None
    followed: Tensor | None = None

    @classmethod
    def of(cls, states: Tensor, neighbours: Neighbours) -> Retrieved:
        """Join states with what was found for them."""
        device = states.device
        return cls(
            states, torch.from_numpy(neighbours.ids).to(device), torch.from_numpy(neighbours.valid).to(device)
        )

    def __getitem__(self, rows: Any) -> Retrieved:
        histories = None if self.histories is None else self.histories[rows]
        voters = None if self.voters is None else self.voters[rows]
        followed = None if self.followed is None else self.followed[rows]
        return Retrieved(self.states[rows], self.ids[rows], self.valid[rows], histories, voters, followed)

    def without_memories(self) -> Retrieved:
        """The same states, as if nothing had been retrieved."""
        voters = None if self.histories is None else torch.zeros_like(self.histories)
        return dataclasses.replace(self, valid=torch.zeros_like(self.valid), voters=voters)

    def __len__(self) -> int:
        return len(self.states)


@dataclass
class Memories:
    """What some rows retrieved; vectors are looked up when they are asked for.

    Attributes
    ----------
    states : Tensor, shape [M, D]
        Of all memories.
    table : Tensor, shape [N, D]
        Item vectors.
    ids : int64 Tensor, shape [B, K]
    items : int64 Tensor, shape [B, K]
        What followed.
    valid : bool Tensor, shape [B, K]
    """

    states: Tensor
    table: Tensor
    ids: Tensor
    items: Tensor
    valid: Tensor

    @functools.cached_property
    def keys(self) -> Tensor:
        """The memories' states, shape [B, K, D]."""
        return self.states[self.ids]

    @functools.cached_property
    def values(self) -> Tensor:
        """The items' vectors, shape [B, K, D]."""
        return self.table[self.items]

    def cosines(self, states: Tensor) -> Tensor:
        """Similarity of each memory to its row's state, [B, D] -> [B, K]."""
        return torch.einsum("bd,bkd->bk", F.normalize(states, dim=-1), F.normalize(self.keys, dim=-1))
