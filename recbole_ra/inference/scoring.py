"""Scores of whole catalogues, block by block, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_ra.data.dataset import EXACT_TIME_FIELD, OWNER_FIELD, PREFIX_FIELD, Fields
from recbole_ra.data.table import IntArray, Prefixes, SequenceTable, places
from recbole_ra.inference.requests import Requests
from recbole_ra.retrieval.bank import pattern_interaction
from recbole_ra.retrieval.recommender import RetrievalRecommender

CELLS = 1 << 24
"""Scores held at once: 64 MB, whatever the catalogue."""

ROWS = 1024
"""Requests scored at once where the catalogue leaves room for so many."""


class Scorer:
    """Asks a model for scores as evaluation does.

    Parameters
    ----------
    model : Module
        With ``full_sort_predict``; in evaluation mode.
    fields : Fields
    n_items, n_users : int
        Of the data that it was trained on, padding included; a user beyond has no vector, and so counts
        as nobody.
    max_length : int
        Width of a history.
    trims : bool
        Whether histories may be narrower than that.
    device : torch.device
    """

    def __init__(
        self,
        model: Any,
        fields: Fields,
        *,
        n_items: int,
        n_users: int,
        max_length: int,
        trims: bool,
        device: torch.device,
    ) -> None:
        self.model = model
        self.fields = fields
        self.n_items, self.n_users = n_items, n_users
        self.max_length, self.trims, self.device = max_length, trims, device

    def interaction(self, requests: Requests) -> Any:
        """Make RecBole's ``Interaction`` of requests."""
        rows = requests.histories
        made = pattern_interaction(rows, self.fields, None if self.trims else self.max_length)
        made[self.fields.user] = torch.from_numpy(np.where(rows.users < self.n_users, rows.users, 0))
        made[OWNER_FIELD] = torch.from_numpy(rows.users)
        made[PREFIX_FIELD] = torch.from_numpy(rows.position)
        made[EXACT_TIME_FIELD] = torch.from_numpy(np.array(requests.times))
        return made.to(self.device)

    def probe(self) -> Any:
        """Make an ``Interaction`` of histories of one item each, to look at what a model does."""
        n = min(64, self.n_items - 1)
        table = SequenceTable.from_arrays(
            np.arange(1, n + 1), np.arange(n + 1), self.n_items, users=np.zeros(n, np.int64)
        )
        rows = Prefixes(table, np.arange(n), table.lengths, self.max_length)
        return self.interaction(Requests.now(rows))

    @torch.no_grad()
    def scores(self, query: Any) -> Tensor:
        """Score every item for an ``Interaction`` or a retrieved query, shape [B, n_items]."""
        return self.model.full_sort_predict(query).view(-1, self.n_items)

    @torch.no_grad()
    def scores_without_memories(self, interaction: Any) -> Tensor:
        """Score every item for an ``Interaction`` as if nothing were remembered, shape [B, n_items]."""
        if not isinstance(self.model, RetrievalRecommender):
            return self.scores(interaction)
        return self.scores(self.model.query(interaction).without_memories())

    def blocks(self, requests: Requests, *, memories: bool = True) -> Iterator[tuple[IntArray, Tensor]]:
        """Yield rows of the requests and their scores, [b] and [b, n_items]; cold ones are left out."""
        scores = self.scores if memories else self.scores_without_memories
        rows = np.flatnonzero(~requests.cold)
        rows = rows[np.argsort(requests.histories.lengths[rows], kind="stable")]
        size = max(1, min(ROWS, CELLS // self.n_items))
        for first in range(0, len(rows), size):
            block = rows[first : first + size]
            yield block, scores(self.interaction(requests[block]))


def hide_seen(scores: Tensor, requests: Requests) -> None:
    """Set the scores of items in each request's whole history to -inf, in place."""
    rows = requests.histories
    place = places(rows.flat_position - rows.position, rows.position)
    row = np.repeat(np.arange(len(rows)), rows.position)
    item = rows.table.items[place].astype(np.int64)
    scores[torch.from_numpy(row).to(scores.device), torch.from_numpy(item).to(scores.device)] = -torch.inf


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` best columns of each row, best first; of equal ones the first.

    Parameters
    ----------
    scores : Tensor, shape [B, N]
    k : int

    Returns
    -------
    values : Tensor, shape [B, min(k, N)]
    columns : int64 Tensor, shape [B, min(k, N)]
    """
    k = min(k, scores.shape[1])
    values, columns = scores.topk(k, dim=1)
    last = values[:, -1:]
    # Which of the equal ones topk takes is undefined where they do not all fit.
    tied = ((scores >= last).sum(1) > k) & torch.isfinite(last[:, 0])
    if tied.any():
        value, column = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], columns[tied] = value[:, :k], column[:, :k]
    order = columns.argsort(dim=1)
    values, columns = values.gather(1, order), columns.gather(1, order)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), columns.gather(1, order)
