"""∞-AE (Sachdeva et al., NeurIPS 2022): an auto-encoder of infinite width, trained in closed form.

Such a network, trained to the end by gradient descent with an L2 penalty, is kernel ridge regression with
its neural tangent kernel (NTK). Rows are sets of items: the order of a history plays no part.

Shapes: ``B`` queries, ``n`` training rows, ``N`` items, padding included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.core.errors import RecboleRaError
from recbole_ra.core.setting import setting
from recbole_ra.data.dataset import Fields
from recbole_ra.data.table import SequenceTable, offsets_of
from recbole_ra.models.buffers import GrowingBuffers
from recbole_ra.models.recommenders import SequentialModel

WEIGHT_VARIANCE, BIAS_VARIANCE = 2.0, 0.01
"""Of the network's initial weights; the authors' standard deviations are √2 and .1."""

CELLS = 1 << 22
"""Places of the kernel that are computed at once: 32 MB for each intermediate result."""


@dataclass(frozen=True)
class InfiniteAESettings:
    """The regression; the network has one hidden layer, as published."""

    ridge: float | None = setting(
        None,
        "λ: the kernel gets λ times the mean of its diagonal added there; by default what validation says",
        low=0,
        shapes="backbone",
        expert=True,
    )


def tangent_kernel(shared: Tensor, size: Tensor, other: Tensor, n_inputs: int) -> Tensor:
    """Compute the NTK of a network with one hidden layer of ReLUs between sets of items.

    Inputs are 0 or 1, so that ``x·y`` is the number of shared items. The covariance of the hidden layer's
    inputs is ``q = w x·y / n_inputs + b``; what ReLUs make of it is the arc-cosine kernel (Cho & Saul,
    NeurIPS 2009), and the tangent kernel of the layers follows (Jacot et al., NeurIPS 2018).

    Parameters
    ----------
    shared : float64 Tensor, shape [B, n]
        Items that the two sets have in common.
    size, other : float64 Tensor, shapes [B, 1] and [n]
        Items of each set.
    n_inputs : int

    Returns
    -------
    float64 Tensor, shape [B, n]
    """
    q, one, two = (x * (WEIGHT_VARIANCE / n_inputs) + BIAS_VARIANCE for x in (shared, size, other))
    # sin and cos of the angle times √(one two): near 0 an arc cosine would lose half of the digits.
    sine = (one * two - q * q).clamp_(min=0).sqrt_()
    both_active = (math.pi - torch.atan2(sine, q)) / (2 * math.pi)
    hidden = sine / (2 * math.pi) + q * both_active
    return WEIGHT_VARIANCE * (hidden + q * both_active) + BIAS_VARIANCE


class InfiniteAE(GrowingBuffers, SequentialModel):
    """Scores ``K(x, X) A`` with ``(K(X, X) + λ tr K / n I) A = X``; ``X`` are the training rows.

    A query that is a training row, as most are in validation, needs no kernel: ``K A = X - λ tr K / n A``.

    Parameters
    ----------
    n_items : int
        Size of the vocabulary, padding included.
    fields : Fields
    """

    Settings = InfiniteAESettings
    source = "Sachdeva et al., NeurIPS 2022"
    growing = ("items", "offsets", "dual")

    items: Tensor
    offsets: Tensor
    dual: Tensor
    shift: Tensor

    def __init__(self, n_items: int, fields: Fields) -> None:
        super().__init__()
        self.n_items, self.fields = n_items, fields
        self.register_buffer("items", torch.empty(0, dtype=torch.int64))
        self.register_buffer("offsets", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("dual", torch.empty(0, n_items))
        self.register_buffer("shift", torch.zeros(()))

    @property
    def trims(self) -> bool:
        """Yes: padding is no item."""
        return True

    @property
    def n_rows(self) -> int:
        """Number of training rows."""
        return len(self.offsets) - 1

    @property
    def memory_needed(self) -> int:
        """Bytes that :meth:`solve` takes: the kernel, its factor twice, the rows and their solution."""
        return 4 * (3 * self.n_rows**2 + 3 * self.n_rows * self.n_items)

    def see(self, table: SequenceTable) -> None:
        """Take the rows to regress: the distinct items of each sequence that has any."""
        row = np.repeat(np.arange(len(table)), table.lengths)
        row, items = np.divmod(np.unique(row * table.n_items + table.items), table.n_items)
        offsets = offsets_of(np.unique(row, return_counts=True)[1])
        self.items = torch.from_numpy(items).to(self.items.device)
        self.offsets = torch.from_numpy(offsets).to(self.items.device)

    # Fitting.

    @torch.no_grad()
    def kernel(self) -> Tensor:
        """Compute the kernel of the training rows, shape [n, n]."""
        found = self.dual.new_empty(self.n_rows, self.n_rows)
        step = max(1, CELLS // max(self.n_rows, self.n_items))
        for first in range(0, self.n_rows, step):
            block = slice(first, first + step)
            marks = self._rows(block)
            found[block] = self._kernel(self._shared(marks), marks.sum(1))
        return found

    @torch.no_grad()
    def solve(self, kernel: Tensor, ridge: float) -> tuple[float, float]:
        """Solve for one λ.

        Rows that are equal make the kernel singular. Where λ is too small for that, the resolution of
        its numbers is added.

        Parameters
        ----------
        kernel : Tensor, shape [n, n]
            As :meth:`kernel` gives it; its diagonal is written to, and put back.
        ridge : float

        Returns
        -------
        ridge : float
            The λ that was used.
        loss : float
            Mean over rows of the squared error on the training rows.

        Raises
        ------
        RecboleRaError
            If the kernel is singular in its numbers all the same.
        """
        diagonal = kernel.diagonal().clone()
        mean = diagonal.double().mean().item()
        self.dual = self.dual.new_empty(0, self.n_items)  # its memory is needed
        for used in (ridge, ridge + self.n_rows * torch.finfo(kernel.dtype).eps):
            kernel.diagonal().copy_(diagonal + used * mean)
            factor, failed = torch.linalg.cholesky_ex(kernel)
            kernel.diagonal().copy_(diagonal)
            if not failed:
                break
        else:
            raise RecboleRaError(
                f"ridge={ridge:g}: the kernel of {self.n_rows} rows is singular in 32 bits; give a larger one"
            )
        self.dual = torch.cholesky_solve(self._rows(slice(None)), factor)
        self.shift.fill_(used * mean)
        error = self.dual.square().sum(1).double().sum().item()
        return used, (used * mean) ** 2 * error / self.n_rows

    def _rows(self, block: slice) -> Tensor:
        """Write training rows out: 1 for each item of a row, shape [b, N]."""
        first, last, _ = block.indices(self.n_rows)
        offsets = self.offsets[first : last + 1]
        row = torch.arange(last - first, device=offsets.device).repeat_interleave(offsets.diff())
        marks = self.dual.new_zeros(last - first, self.n_items)
        marks[row, self.items[offsets[0] : offsets[-1]]] = 1
        return marks

    # Scoring.

    def _marks(self, interaction: Any) -> Tensor:
        """Write histories out: 1 for each item, shape [B, N]."""
        histories = interaction[self.fields.history]
        marks = self.dual.new_zeros(len(histories), self.n_items).scatter_(1, histories, 1)
        marks[:, 0] = 0
        return marks

    def _shared(self, marks: Tensor) -> Tensor:
        """Count the items that each query shares with each training row, [B, N] -> [B, n]."""
        columns = marks.T.contiguous()
        return F.embedding_bag(self.items, columns, self.offsets, mode="sum", include_last_offset=True).T

    def _kernel(self, shared: Tensor, size: Tensor) -> Tensor:
        """Compute the kernel of queries and training rows in 64 bits, [B, n], [B] -> [B, n]."""
        other = self.offsets.diff().double()
        step = max(1, CELLS // max(self.n_rows, 1))
        found = torch.empty_like(shared)
        for first in range(0, len(shared), step):
            block = slice(first, first + step)
            own = size[block, None].double()
            found[block] = tangent_kernel(shared[block].double(), own, other, self.n_items - 1)
        return found

    def represent(self, interaction: Any) -> Tensor:
        """Return how near each query is to every training row, shape [B, n]."""
        marks = self._marks(interaction)
        return self._kernel(self._shared(marks), marks.sum(1))

    @property
    def item_table(self) -> Tensor:
        """What each training row says of each item, shape [N, n]."""
        return self.dual.T

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Score every item for every row, shape [B, N]."""
        marks = self._marks(interaction)
        shared, size = self._shared(marks), marks.sum(1)
        same = (shared == size[:, None]) & (self.offsets.diff() == size[:, None])
        known, twin = same.max(1)
        scores = torch.empty_like(marks)
        scores[known] = marks[known] - self.shift * self.dual[twin[known]]
        scores[~known] = self._kernel(shared[~known], size[~known]) @ self.dual
        return scores

    def predict(self, interaction: Any) -> Tensor:
        """Score the row's own item, shape [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.fields.item][:, None])[:, 0]
