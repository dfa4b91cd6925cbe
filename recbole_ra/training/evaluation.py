"""Ranking every item for every row under both protocols, from one scoring pass.

METHOD 0: ``unmasked`` ranks the full catalogue; ``masked`` leaves the user's own history out.
RecBole's metrics (its ``Evaluator``) do the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.evaluator import Collector, Evaluator
from torch import Tensor

from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.data.table import IntArray
from recbole_ra.settings.recbole import metric_key

PROTOCOLS = ("unmasked", "masked")
ROW_METRICS = ("recall", "hit", "mrr", "map", "precision", "ndcg")
"""Metrics that are means over rows, of which each has one target."""

MISSED = torch.iinfo(torch.int64).max
COUNTED_AT_ONCE = 1 << 20  # scores: 4 MB
SCORED_AT_ONCE = 1 << 28  # scores: 1 GB
FEWEST_ROWS = 16  # below, reading the item table costs more than the scores


def rows_scored_together(most: int, n_items: int) -> int:
    """Return how many rows may be scored together: ``most``, or fewer if the catalogue is large."""
    return min(most, max(FEWEST_ROWS, SCORED_AT_ONCE // n_items))


def ranks(
    scores: Tensor, targets: Tensor, history_row: Tensor, history_item: Tensor
) -> tuple[Tensor, Tensor]:
    """Rank each target, counted from 0, among all items and among items not in the history.

    A tie counts against the target, so that a model that scores all items alike earns nothing; RecBole's
    top-k breaks ties in an order of its own, and without ties the two agree. A target that is in
    its user's history is a miss under ``masked``: its rank is :data:`MISSED`.

    Parameters
    ----------
    scores : Tensor, shape [B, N]
        Column 0 (padding) is ignored.
    targets : int64 Tensor, shape [B]
    history_row, history_item : int64 Tensor, shape [H]
        Each distinct item of a row's history.

    Returns
    -------
    tuple of int64 Tensor, shape [B]
    """
    wanted = scores.gather(1, targets[:, None])
    unmasked = at_least(scores[:, 1:], wanted) - 1
    above = scores[history_row, history_item] >= wanted[history_row, 0]
    return unmasked, without_history(unmasked, above, targets, history_row, history_item)


def without_history(
    unmasked: Tensor, above: Tensor, targets: Tensor, history_row: Tensor, history_item: Tensor
) -> Tensor:
    """Turn ranks among all items into those under ``masked``, [..., B] -> [..., B].

    Parameters
    ----------
    unmasked : int64 Tensor, shape [..., B]
    above : bool Tensor, shape [..., H]
        Which items of the history are counted in ``unmasked``.
    targets, history_row, history_item
        As :func:`ranks` takes them.
    """
    masked = unmasked - torch.zeros_like(unmasked).index_add_(-1, history_row, above.long())
    repeated = torch.zeros_like(targets, dtype=torch.bool)
    repeated[history_row[history_item == targets[history_row]]] = True
    return masked.masked_fill(repeated, MISSED)


def at_least(scores: Tensor, wanted: Tensor) -> Tensor:
    """Count each row's scores that reach its ``wanted``, shape [B, 1].

    In blocks that stay in the cache, and counted as floats, which are exact up to 2^24 and summed many
    times as fast as booleans.
    """
    rows = max(1, COUNTED_AT_ONCE // scores.shape[1])
    room = scores.new_empty(min(rows, len(scores)), scores.shape[1], dtype=torch.float32)
    found = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    for first in range(0, len(scores), rows):
        block = slice(first, first + rows)
        part = scores[block]
        found[block] = torch.ge(part, wanted[block], out=room[: len(part)]).sum(1)
    return found


class RankingEvaluator:
    """Collects scored batches and reports RecBole's metrics for both protocols.

    Parameters
    ----------
    config : RecBole configuration
    train_dataset : RecBole data set
        What RecBole's metrics of coverage and popularity look at.

    Raises
    ------
    SettingsError
        If a metric asks for a list of recommendations that is longer than the catalogue.
    """

    def __init__(self, config: Any, train_dataset: Any) -> None:
        self.evaluator = Evaluator(config)
        self.collectors = {protocol: Collector(config) for protocol in PROTOCOLS}
        for collector in self.collectors.values():
            collector.data_collect(SimpleNamespace(dataset=train_dataset))
        needs = self.collectors["unmasked"].register
        # Ranks say all that most metrics ask for; the others get the scores, through RecBole's collector.
        self.by_rank = not any(needs.need(what) for what in ("rec.items", "rec.score", "data.label"))
        self.cut, n_items = max(config["topk"]), train_dataset.item_num - 1
        if not self.by_rank and self.cut > n_items:
            raise SettingsError(
                f"topk={config['topk']}: metrics={config['metrics']} ask for {self.cut} recommendations, but "
                f"there are {n_items} items; lower topk"
            )
        self.found: dict[str, list[Tensor]] = {protocol: [] for protocol in PROTOCOLS}
        self.n_ranked: dict[str, list[Tensor]] = {protocol: [] for protocol in PROTOCOLS}

    def add(self, scores: Tensor, batch: Any, interaction: Any) -> None:
        """Take in the scores of one batch, shape [B, N]."""
        targets, row, item = (
            x.to(scores.device) for x in (batch.targets, batch.history_row, batch.history_item)
        )
        if torch.isnan(scores.amax()):  # NaN passes through a maximum
            raise RecboleRaError(
                "the model's scores are not numbers (NaN); lower learning_rate or set clip_grad_norm"
            )
        found = ranks(scores, targets, row, item)
        every = torch.full_like(targets, scores.shape[1] - 1)
        left = every - torch.bincount(row, minlength=len(targets))
        for protocol, rank, n_ranked in zip(PROTOCOLS, found, (every, left), strict=True):
            self.found[protocol].append(rank.cpu())
            self.n_ranked[protocol].append(n_ranked.cpu())
        if self.by_rank:
            return
        users = torch.arange(len(targets), device=scores.device)
        scores[:, 0] = -torch.inf
        self.collectors["unmasked"].eval_batch_collect(scores, interaction, users, targets)
        scores[row, item] = -torch.inf
        self.collectors["masked"].eval_batch_collect(scores, interaction, users, targets)

    def ranks(self) -> dict[str, Tensor]:
        """Return the rank of each target, in order of batches, shape [rows], for each protocol."""
        return {protocol: torch.cat(parts) for protocol, parts in self.found.items()}

    def result(self) -> dict[str, dict[str, float]]:
        """Compute the metrics of everything added, for each protocol."""
        results = {}
        for protocol, rank in self.ranks().items():
            # Not through RecBole's get_data_struct: it fails on the item counts that coverage asks for.
            data = self.collectors[protocol].data_struct
            # Of our ranks also where RecBole's collector took part: one rule for ties and repeated targets.
            data.set("rec.topk", hits(rank, self.cut))
            n_ranked = torch.cat(self.n_ranked[protocol])
            places = (rank.clamp(max=MISSED - 1) + 1).minimum(n_ranked)  # a miss is last
            data.set("rec.meanrank", torch.stack([places, n_ranked, torch.ones_like(rank)], 1))
            for name in ("rec.items", "rec.score", "data.label"):
                if name in data:
                    data.set(name, data.get(name).cpu())
            if "rec.items" in data:  # a list that runs out of items goes on with its last one
                last = (n_ranked[:, None] - 1).clamp(min=0)
                data.set("rec.items", data.get("rec.items").gather(1, torch.arange(self.cut).minimum(last)))
            results[protocol] = {name: float(value) for name, value in self.evaluator.evaluate(data).items()}
        return results


def hits(rank: Tensor, cut: int) -> Tensor:
    """Make RecBole's ``rec.topk`` for one target per row: a 1 at its rank if below ``cut``, then a 1."""
    table = torch.zeros(len(rank), cut + 1, dtype=torch.int)
    table[:, cut] = 1
    inside = rank < cut
    table[inside.nonzero()[:, 0], rank[inside]] = 1
    return table


def row_metric(metric: str) -> str:
    """Return the metric by which rows are compared: NDCG at its cut-off where it is no mean over rows."""
    return metric if metric.partition("@")[0] in ROW_METRICS else f"ndcg@{cut_of(metric)}"


def of_rows(metric: str, rank: Tensor) -> NDArray[np.float64]:
    """Return a metric of each row with one target, shape [rows].

    Parameters
    ----------
    metric : str
        Such as ``ndcg@10``; others than :data:`ROW_METRICS` are replaced as :func:`row_metric` says.
    rank : int64 Tensor, shape [rows]
        Counted from 0.
    """
    name, cut = metric.partition("@")[0], cut_of(metric)
    place = rank.numpy().astype(np.float64)
    inside = place < cut
    if name in ("recall", "hit"):
        return inside.astype(np.float64)
    if name in ("mrr", "map"):
        return np.where(inside, 1 / (place + 1), 0.0)
    if name == "precision":
        return inside / cut
    return np.where(inside, 1 / np.log2(place + 2), 0.0)


def error_over_users(gains: NDArray[np.float64], users: IntArray) -> float:
    """Return the standard error of a mean over rows, where users are drawn and each brings all its rows.

    With one row a user it is the usual one. Infinite for a single user.

    Parameters
    ----------
    gains : float array, shape [rows]
    users : int array, shape [rows]
        Whose each row is.
    """
    _, user = np.unique(users, return_inverse=True)
    sums = np.bincount(user, gains - gains.mean())
    if len(sums) < 2:
        return math.inf
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(gains))


def under_protocols(metric: str, ranks: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """Return :func:`of_rows` of the ranks under each protocol, and the mean of both, ``mean``."""
    values = {name: of_rows(metric, rank) for name, rank in ranks.items()}
    return {**values, "mean": np.mean(list(values.values()), axis=0)}


def cut_of(metric: str) -> int:
    """Return the rank from which on :func:`of_rows` gives nothing; 10 where a metric names none."""
    return int(metric.partition("@")[2] or 10)


def flat_result(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """Join both protocols: unmasked under RecBole's names, ``masked_…``, and their mean, ``mean_…``."""
    unmasked, masked = results["unmasked"], results["masked"]
    mean = {name: (value + masked[name]) / 2 for name, value in unmasked.items()}
    return {
        metric_key(protocol, name): value
        for protocol, metrics in (("unmasked", unmasked), ("masked", masked), ("mean", mean))
        for name, value in metrics.items()
    }
