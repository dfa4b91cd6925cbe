"""Mixing of two distributions: the softmax of the scores, and what the memories say followed.

``p = w softmax(s) + (1 - w) p_memories`` as in kNN-LM (Khandelwal et al., ICLR 2020). Nothing is trained.

Shapes: ``B`` rows, ``K`` neighbours, ``L`` places of a history, ``J`` items with a share, ``N`` items.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.models.history import ItemOffsets
from recbole_ra.retrieval.transitions import Transitions

if TYPE_CHECKING:
    from recbole_ra.retrieval.retrieved import Memories, Retrieved


class Mixture(nn.Module):
    """A mixture that leaves the scores of all other items as they are, and raises those with a share.

    Parameters
    ----------
    weight : float in (0, 1]
        Of the softmax; 1 = no mixture.
    sharpness : float
        The one number that :meth:`shares` takes besides; ``parameter`` names it.
    """

    parameter = ""
    weight: Tensor
    sharpness: Tensor

    def __init__(self, weight: float, sharpness: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float64))
        self.register_buffer("sharpness", torch.tensor(sharpness, dtype=torch.float64))

    @property
    def is_off(self) -> bool:
        """Whether the memories have no share."""
        return float(self.weight) == 1

    def shares(self, query: Retrieved, memories: Memories) -> tuple[Tensor, Tensor]:
        """Return the items with a share [B, J], each once and else 0, and its log [B, J], -inf for none."""
        raise NotImplementedError

    def listed(self, query: Retrieved, memories: Memories) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`shares` does as a list, row by row: rows, items and logs, shape [V] each."""
        items, shares = self.shares(query, memories)
        row, place = torch.isfinite(shares).nonzero(as_tuple=True)
        return row, items[row, place], shares[row, place]

    def names(self, query: Retrieved, memories: Memories, items: Tensor) -> Tensor:
        """Tell whether one item of each row has a share, [B] -> bool [B]."""
        found, shares = self.shares(query, memories)
        return (torch.isfinite(shares) & (found == items[:, None])).any(1)

    def offsets(self, scores: Tensor, items: Tensor, shares: Tensor) -> ItemOffsets:
        """Return what the mixture adds to scores; others keep theirs, up to a constant.

        ``log p_j = s_j + log(1 + (1 - w) / w * p_memories_j / softmax(s)_j) + constant``.

        Parameters
        ----------
        scores : Tensor, shape [B, N]
        items, shares
            As :meth:`shares` gives them.
        """
        total = scores.logsumexp(1, keepdim=True)
        return ItemOffsets(items, self.raised(lifts(scores.gather(1, items), total, shares)))

    def raised(self, lifts: Tensor) -> Tensor:
        """Return what is added to the scores of items for their :func:`lifts`, of any shape."""
        weight = float(self.weight)
        odds = math.log((1 - weight) / weight) if weight < 1 else -math.inf
        return F.softplus(odds + lifts, threshold=30)


def lifts(scores: Tensor, total: Tensor, shares: Tensor) -> Tensor:
    """How much likelier memories make items than scores do: ``log p_memories / softmax(s)``.

    Scores of items, the log of the sum of all exponentials in their row, and logs of shares; of one shape.
    """
    return shares.to(scores.dtype) + (total - scores)


class NeighbourMixture(Mixture):
    """Each item that a neighbour brought gets the softmax of the neighbours' cosines over a temperature."""

    parameter = "temperature"

    def shares(self, query: Retrieved, memories: Memories) -> tuple[Tensor, Tensor]:
        """Return ``log p_memories``; at most ``K`` items."""
        items, valid = memories.items, memories.valid
        cosines = memories.cosines(query.states).double() / self.sharpness
        weight = cosines.masked_fill(~valid, torch.finfo(cosines.dtype).min).softmax(1) * valid
        same = (items[:, :, None] == items[:, None, :]) & valid[:, None, :]
        share = (same * weight[:, None, :]).sum(-1)  # of the item, all its neighbours together
        first = valid & ~torch.tril(same, -1).any(-1)
        return items * first, (share * first).log()


class TransitionMixture(Mixture):
    """Each item gets the votes of the history's items for what followed them (:class:`Transitions`)."""

    parameter = "decay"

    def __init__(self, weight: float, sharpness: float) -> None:
        super().__init__(weight, sharpness)
        self.transitions: Transitions | None = None

    def shares(self, query: Retrieved, memories: Memories) -> tuple[Tensor, Tensor]:
        """Return ``log p_memories``; as many items as have a vote."""
        transitions, voters = self._votes(query)
        items, shares = transitions.shares(voters, float(self.sharpness), query.followed)
        return items, shares.log()

    def listed(self, query: Retrieved, memories: Memories) -> tuple[Tensor, Tensor, Tensor]:
        """As of any mixture, without the padding of rows with fewer votes."""
        transitions, voters = self._votes(query)
        row, items, shares = transitions.listed(voters, float(self.sharpness), query.followed)
        return row, items, shares.log()

    def names(self, query: Retrieved, memories: Memories, items: Tensor) -> Tensor:
        """As of any mixture, without counting all votes."""
        transitions, voters = self._votes(query)
        return transitions.name(voters, items)

    def _votes(self, query: Retrieved) -> tuple[Transitions, Tensor]:
        assert self.transitions is not None, "the recommender counts them as it gets its bank"
        voters = query.histories if query.voters is None else query.voters
        assert voters is not None, "a query tells its history where transitions are mixed in"
        return self.transitions, voters


MIXTURES: dict[str, tuple[type[Mixture], tuple[float, ...]]] = {
    "knn": (NeighbourMixture, (0.05, 0.02, 0.1)),
    "transitions": (TransitionMixture, (0.6, 0.4, 0.8)),
}
"""Mixtures by name, with the values of their parameter that are tried; the first is the default."""
