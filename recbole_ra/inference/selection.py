"""From scores to tables: which items may be recommended, and the best of them for each request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recbole_ra.core.errors import RequestError
from recbole_ra.data.table import IntArray
from recbole_ra.inference.requests import Requests
from recbole_ra.inference.scoring import Scorer, best, hide_seen
from recbole_ra.inference.tokens import Items

CHUNK = 8192
"""Requests whose recommendations make one table of a stream."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What may be recommended.

    Attributes
    ----------
    k : int
        Items for each request.
    filter_seen : bool
        Leave out what is in the request's history.
    allowed : int64 array, shape [A]
        Ids of the items that may be recommended, in order.
    memories : bool
        Look at what is remembered.
    unknown_items : mapping of str to list of str
        Items that were skipped, by what named them: ``items`` or ``exclude``.
    """

    k: int
    filter_seen: bool
    allowed: IntArray
    memories: bool = True
    unknown_items: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        items: Items,
        k: int,
        filter_seen: bool,
        only: IntArray | None,
        exclude: IntArray | None,
        memories: bool = True,
        unknown_items: Mapping[str, list[str]] | None = None,
    ) -> Selection:
        """Check what a request asks for.

        Raises
        ------
        RequestError
            If ``k`` is no number of items of the catalogue, or no item is left.
        """
        check_k(k, len(items) - 1)
        allowed = np.arange(1, len(items)) if only is None else np.unique(only[only > 0])
        if exclude is not None:
            allowed = np.setdiff1d(allowed, exclude)
        if not len(allowed):
            raise RequestError("items, exclude: leave no item to recommend; name others")
        return cls(k, filter_seen, allowed, memories, unknown_items or {})


def check_k(k: int, n_items: int, what: str = "items") -> None:
    """Raise RequestError unless ``k`` is a number of items that there are."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise RequestError(f"k={k!r}: must be a whole number from 1 on")
    if k > n_items:
        raise RequestError(f"k={k}: there are only {n_items} {what}; ask for fewer")


def recommendations(
    scorer: Scorer, requests: Requests, items: Items, popularity: IntArray, selection: Selection
) -> Iterator[pd.DataFrame]:
    """Yield tables with the best items of consecutive requests; memory does not grow with their number.

    Parameters
    ----------
    popularity : int64 array, shape [n_items]
        Interactions of each item: what cold requests get; they have no scores.

    Yields
    ------
    DataFrame
        Columns ``user``, ``item``, ``score``, ``rank`` and, where titles are known, ``title``.
    """
    allowed = torch.from_numpy(selection.allowed).to(scorer.device)
    everything = len(allowed) == scorer.n_items - 1
    k = min(selection.k, len(allowed))
    # The columns are in the order of ids, so equally popular items are, too.
    most = torch.from_numpy(popularity[selection.allowed]).double()[None, :]
    popular = selection.allowed[best(most, k)[1][0].numpy()]
    for first in range(0, max(len(requests), 1), CHUNK):
        chunk = requests[slice(first, first + CHUNK)]
        found = np.zeros((len(chunk), k), dtype=np.int64)
        score = np.full((len(chunk), k), np.nan, dtype=np.float32)
        there = np.ones((len(chunk), k), dtype=np.bool_)
        found[chunk.cold] = popular
        for rows, scores in scorer.blocks(chunk, memories=selection.memories):
            if selection.filter_seen:
                hide_seen(scores, chunk[rows])
            values, columns = best(scores[:, 1:] if everything else scores[:, allowed], k)
            found[rows] = allowed[columns].cpu().numpy()
            score[rows] = values.cpu().numpy()
            there[rows] = np.isfinite(score[rows])
        yield as_table(items, {"user": chunk.labels}, found, score, there)


def as_table(
    items: Items,
    first: dict[str, NDArray[np.generic]],
    found: IntArray,
    score: NDArray[np.float32],
    there: NDArray[np.bool_],
    name: str = "item",
) -> pd.DataFrame:
    """Make a table of the found items of each row, best first.

    Parameters
    ----------
    items : Items
    first : mapping of name to array, shape [R]
        Columns that say whose row it is.
    found, score, there : arrays, shape [R, k]
        Ids, their scores, and which of them count: in each row the first ones.
    name : str
        Of the column of items.
    """
    row, place = np.nonzero(there)
    ids = found[row, place]
    columns: dict[str, NDArray[np.generic]] = {key: values[row] for key, values in first.items()}
    columns |= {name: items.names[ids], "score": score[row, place], "rank": place + 1}
    if items.titles is not None:
        columns["title"] = items.titles[ids]
    return pd.DataFrame(columns)
