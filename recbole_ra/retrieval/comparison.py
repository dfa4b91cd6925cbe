"""What retrieval changed for whom: the recommender beside its backbone, row by row of the test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.retrieval.retrieved import Retrieved
from recbole_ra.settings.recbole import split_metric
from recbole_ra.training.evaluation import RankingEvaluator, error_over_users, of_rows, row_metric
from recbole_ra.training.loaders import by_length
from recbole_ra.training.run import Run

LENGTHS = (0, 5, 10, 20, 50, np.inf)
"""Bounds of the groups of histories."""

BY_SIZE = 4
"""Groups of equal size, by popularity of the target and by similarity of the nearest memory."""


def facts_of_rows(run: Run, recommender: RetrievalRecommender, split: Any, found: Retrieved) -> pd.DataFrame:
    """Return what the rows of a split are grouped by, one line each in the order of ranking."""
    order = by_length(split.prefixes)
    rows, found = split.prefixes[order], found[torch.from_numpy(order)]
    # Of all training interactions: a user's first item is no target, and counts here all the same.
    popularity = np.bincount(run.training_part.sequences.items, minlength=run.n_items)[rows.targets]
    nearest, among = [], []
    for first in range(0, len(found), run.config["eval_batch_size"]):
        part = slice(first, first + run.config["eval_batch_size"])
        some = found[part].to(run.config.torch_device)
        memories = recommender.memories(some)
        cosines = memories.cosines(some.states).masked_fill(~memories.valid, -1.0)
        nearest.append(cosines.amax(1).cpu().numpy())
        brought = memories.items.masked_fill(~memories.valid, 0).cpu().numpy()
        among.append((brought == rows.targets[part, None]).any(1))
    hits = np.concatenate(among)
    return pd.DataFrame(
        {
            "popularity of the target": _by_size(popularity.astype(float), "{:.0f}"),
            "length of the history": pd.cut(rows.position, LENGTHS, labels=_names_of(LENGTHS)),
            "similarity of the nearest memory": _by_size(np.concatenate(nearest), "{:.2f}"),
            "target among what memories brought": np.where(hits, "yes", "no"),
        },
        index=rows.sequence,
    )


def _names_of(bounds: Sequence[float]) -> list[str]:
    """Name the groups between bounds of whole numbers, the last of which is infinite."""
    names = [f"{low + 1:g} to {high:g}" for low, high in itertools.pairwise(bounds)]
    return [*names[:-1], f"above {bounds[-2]:g}"]


def _by_size(values: NDArray[np.floating[Any]], text: str) -> pd.Categorical:
    """Name the quantile that each value is in by its bounds, in rising order."""
    bounds = np.unique(np.quantile(values, np.linspace(0, 1, BY_SIZE + 1)))
    group = np.clip(np.searchsorted(bounds, values, side="right") - 1, 0, max(len(bounds) - 2, 0))
    upper = bounds[1:] if len(bounds) > 1 else bounds
    names = [f"{text.format(low)} to {text.format(high)}" for low, high in zip(bounds, upper, strict=False)]
    # Neighbouring groups may read alike once their bounds are rounded: then they are one.
    return pd.Categorical([names[place] for place in group], list(dict.fromkeys(names)), ordered=True)


def compare(
    before: RankingEvaluator, after: RankingEvaluator, facts: pd.DataFrame, metric: str
) -> dict[str, Any]:
    """Compare two recommenders on the same rows, for each protocol.

    Parameters
    ----------
    before, after : RankingEvaluator
        Of the same batches.
    facts : DataFrame
        One line for each ranked row, in that order: columns are what rows are grouped by, the index says
        whose they are.
    metric : str
        As ``valid_metric``.

    Returns
    -------
    dict
        Protocol -> ``metric``, ``rows``, ``before``, ``after``, ``gain``, its standard ``error``, ``p_value``
        (two-sided paired t test over users), ``helped`` and ``harmed`` (shares of rows), and ``groups``.
    """
    found, ranks = {}, after.ranks()
    metric = row_metric(split_metric(metric)[1])
    for protocol, old_ranks in before.ranks().items():
        old, new = of_rows(metric, old_ranks), of_rows(metric, ranks[protocol])
        gains = pd.DataFrame({"before": old, "after": new, "gain": new - old}, index=facts.index)
        groups = {
            name: {str(group): _summary(part) for group, part in gains.groupby(facts[name], observed=True)}
            for name in facts
        }
        summary, n_users = _summary(gains), facts.index.nunique()
        differs = bool((gains["gain"] != 0).any()) and n_users > 1
        found[protocol] = {
            "metric": metric,
            **summary,
            "p_value": _p_value(summary, n_users) if differs else 1.0,
            "helped": float((gains["gain"] > 0).mean()),
            "harmed": float((gains["gain"] < 0).mean()),
            "groups": groups,
        }
    return found


def _summary(gains: pd.DataFrame) -> dict[str, Any]:
    """Return means and standard error; None of one user, which has none."""
    error = error_over_users(gains["gain"].to_numpy(), gains.index.to_numpy())
    return {"rows": len(gains), **gains.mean().to_dict(), "error": error if math.isfinite(error) else None}


def _p_value(summary: Mapping[str, Any], n_users: int) -> float:
    error = summary["error"]
    return float(2 * stats.t.sf(abs(summary["gain"]) / error, n_users - 1)) if error else 0.0
