"""Items whose vectors are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recbole_ra.core.errors import RequestError, SettingsError
from recbole_ra.data.table import IntArray
from recbole_ra.inference.scoring import CELLS, ROWS, best
from recbole_ra.inference.selection import as_table, check_k
from recbole_ra.inference.tokens import Items
from recbole_ra.models.recbole_models import RecBoleRecommender
from recbole_ra.models.recommenders import SequentialModel

if TYPE_CHECKING:
    from recbole_ra.inference.recommender import Recommender


@torch.no_grad()
def scored_by_vectors(recommender: Recommender, asked: str) -> SequentialModel:
    """Return the model as one that tells the vectors of items, which are those of its weights now.

    Parameters
    ----------
    recommender : Recommender
    asked : str
        What needs them, for the message.

    Raises
    ------
    RequestError
        If the model has none.
    """
    scorer = recommender.scorer
    model, probe = scorer.model, scorer.probe()
    if not isinstance(model, SequentialModel):
        try:
            model = RecBoleRecommender(model, scorer.n_items, scorer.fields, probe)
        except SettingsError as error:
            raise RequestError(
                f"{asked}: {recommender.about.model} does not score by vectors of items, so there are none; "
                "use a model that `recbole-ra models` lists with Ra"
            ) from error
    model.represent(probe)  # RecBole's models tell their item vectors as they encode
    return model


def item_vectors(recommender: Recommender) -> Tensor:
    """Return the vector of each item, scaled to length 1, shape [items, D].

    Raises
    ------
    RequestError
        If the model has none.
    """
    table = scored_by_vectors(recommender, "similar_items").item_table.detach()
    return table / table.norm(dim=1, keepdim=True).clamp_min(torch.finfo(table.dtype).tiny)


def similar(vectors: Tensor, items: Items, ids: IntArray, k: int) -> pd.DataFrame:
    """Make a table of the items most similar to each of some, which are not among their own.

    Parameters
    ----------
    vectors : Tensor, shape [items, D]
        Of length 1.
    items : Items
    ids : int64 array, shape [I]
    k : int

    Raises
    ------
    RequestError
        If ``k`` is no number of other items.
    """
    check_k(k, len(items) - 2, "other items")
    found = np.empty((len(ids), k), np.int64)
    score = np.empty((len(ids), k), np.float32)
    size = max(1, min(ROWS, CELLS // len(items)))
    for first in range(0, len(ids), size):
        rows = slice(first, first + size)
        own = torch.from_numpy(ids[rows]).to(vectors.device)
        cosines = vectors[own] @ vectors.T
        cosines[:, 0] = -torch.inf
        cosines[torch.arange(len(own), device=vectors.device), own] = -torch.inf
        values, columns = best(cosines, k)
        found[rows], score[rows] = columns.cpu().numpy(), values.cpu().numpy()
    return as_table(items, {"item": items.names[ids]}, found, score, np.isfinite(score), name="similar")
