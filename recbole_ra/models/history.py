"""A learned term for items that the user has had before (as Softmax-CPR, Chang et al., WSDM 2024).

A softmax over inner products cannot rank the items of the history apart from those near them. With a term of
their own it can: on data without repeats they are left out, on data with repeats they are brought back.

Shapes: ``T`` rows, ``L`` places of a history, ``N`` items.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

HISTORY_BIASES = ("none", "scalar", "state")

_REACH = 10.0
"""Adam moves a weight by about the learning rate a step; where nothing repeats, the term has far to go."""


class ItemOffsets(NamedTuple):
    """What is added to the scores of a few items of each row.

    Attributes
    ----------
    items : int64 Tensor, shape [T, L]
        Each item once; other places are 0.
    values : Tensor, shape [T, L]
        0 where the place is.
    """

    items: Tensor
    values: Tensor

    def of(self, items: Tensor) -> Tensor:
        """Return what is added to the scores of those items, [T, S] -> [T, S]."""
        same = self.items[:, None, :] == items[:, :, None]
        return (same * self.values[:, None, :]).sum(-1)

    def joined(self, other: ItemOffsets) -> ItemOffsets:
        """Return both together; what an item has in either is summed."""
        return ItemOffsets(torch.cat([self.items, other.items], 1), torch.cat([self.values, other.values], 1))

    def add_to(self, scores: Tensor) -> Tensor:
        """Add them to the scores of every item, in place, shape [T, N]."""
        return scores.scatter_add_(1, self.items, self.values.to(scores.dtype))


class HistoryBias(nn.Module):
    """Score of an item of the history = inner product + bias.

    Parameters
    ----------
    kind : {"scalar", "state"}
        One number for everybody, or an affine function of the user's state.
    width : int
        Of the states.
    """

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        if kind not in HISTORY_BIASES[1:]:
            raise ValueError(f"history_bias {kind!r} must be one of {', '.join(HISTORY_BIASES[1:])}")
        self.constant = nn.Parameter(torch.zeros(()))
        self.slope = nn.Parameter(torch.zeros(width)) if kind == "state" else None

    def forward(self, states: Tensor, histories: Tensor) -> ItemOffsets:
        """[T, D], items of each row's history [T, L] in any order, 0 = none -> offsets [T, L]."""
        bias = (_REACH * self.constant).expand(len(states))
        if self.slope is not None:
            bias = bias + states @ self.slope
        items = distinct(histories)
        return ItemOffsets(items, bias[:, None] * (items != 0))


def distinct(histories: Tensor) -> Tensor:
    """Leave each row's items once, 0 elsewhere: [T, L] -> [T, L]."""
    ordered = histories.sort(1).values
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ordered.masked_fill(again, 0)
