"""What each of several weights makes of held-out rows, without the scores of each.

The logits of both sides, ``h E`` and ``h' E``, are made once for all settings. A mixture raises the scores of
few items and leaves the others, so a target's rank is counted among the scores before it and corrected by
the items that were raised past the target. Most targets are far from the first places whatever the weights
are; a part of the catalogue shows that, and such rows are not scored in full.

Shapes: ``B`` rows, ``b`` of them, ``N`` items, ``S`` settings, ``H`` items of histories, ``V`` shares of a
mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_ra.retrieval.held_out import HeldOut, LogShares, Setting, set_weights
from recbole_ra.retrieval.mixture import Mixture, lifts
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.retrieval.retrieved import Retrieved
from recbole_ra.training.evaluation import (
    MISSED,
    PROTOCOLS,
    at_least,
    cut_of,
    under_protocols,
    without_history,
)
from recbole_ra.training.loaders import EvalBatch, EvalBatches

PART = 8
"""One item of so many, those bought most, is compared with a target before all are."""

MARGIN = 1e-3
"""Far more than rounding moves a score, as a part of it, or the log of a share."""


@torch.no_grad()
def metric_of_rows(
    recommender: RetrievalRecommender, batches: EvalBatches, settings: Sequence[Setting], metric: str
) -> list[dict[str, np.ndarray]]:
    """Return a metric of each row under each setting, for each protocol and their mean.

    Parameters
    ----------
    recommender : RetrievalRecommender
        Is left with the last of the settings.
    batches : EvalBatches
        Queries may be known (:class:`Retrieved`) or not.
    settings : sequence of mappings
        As :func:`use` takes them, each with the same names.
    metric : str
        As :func:`of_rows` takes it.
    """
    found, device = [], recommender.item_table.device
    bought = torch.bincount(torch.from_numpy(recommender.bank.values), minlength=len(recommender.item_table))
    popular = (1 + bought[1:].topk(max(1, (len(bought) - 1) // PART)).indices).to(device)  # no padding
    for batch in batches:
        query = batch.query.to(device)
        known = query if isinstance(query, Retrieved) else recommender.query(query)
        found.append(_ranks(HeldOut.of(recommender, settings, known), batch, popular, cut_of(metric)).cpu())
    ranks = torch.cat(found, -1)
    set_weights(recommender, settings[-1])
    return [
        under_protocols(metric, dict(zip(PROTOCOLS, ranks[:, place], strict=True)))
        for place in range(len(settings))
    ]


def _ranks(rows: HeldOut, batch: EvalBatch, popular: Tensor, cut: int) -> Tensor:
    """Rank the targets of a batch under both protocols and each setting, shape [2, S, B].

    A rank that is surely ``cut`` or beyond is :data:`MISSED`.
    """
    device = rows.table.device
    targets = batch.targets.to(device)
    history = _History(batch.history_row.to(device), batch.history_item.to(device))
    ranks = targets.new_full((2, len(rows.settings), len(targets)), MISSED)
    allowed = cut + torch.bincount(history.row, minlength=len(targets))
    near = _near(rows, targets, allowed, popular)
    rows, targets, allowed = rows[near], targets[near], allowed[near]
    contested = _contested(rows, targets, allowed, popular)
    for part in rows.blocks(contested, len(rows.table)):
        inside = history.of(near[part], ranks.shape[-1])
        ranks[:, :, near[part]] = _ranks_of(rows, part, targets[part], inside)
    return ranks


@dataclass(frozen=True)
class _History:
    """The distinct items of each row's history, int64 Tensors, shape [H]."""

    row: Tensor
    item: Tensor

    def of(self, rows: Tensor, n_rows: int) -> _History:
        """Keep those of some of the rows, which are numbered anew."""
        number = self.row.new_full((n_rows,), -1)
        number[rows] = torch.arange(len(rows), device=rows.device)
        row = number[self.row]
        inside = row >= 0
        return _History(row[inside], self.item[inside])


def _near(rows: HeldOut, targets: Tensor, allowed: Tensor, popular: Tensor) -> Tensor:
    """Return the rows whose target may be among the first under one of the settings.

    A mixture that has no share for the target raises others alone, so the scores before it tell.

    Parameters
    ----------
    rows : HeldOut
    targets : int64 Tensor, shape [B]
    allowed : int64 Tensor, shape [B]
        So many items may be above the target.
    popular : int64 Tensor
        Items that are compared with it.
    """
    near = rows.named(targets)
    for part in rows.blocks((~near).nonzero()[:, 0], len(popular)):
        target, others = rows.logits(part, targets[part, None]), rows.logits(part, popular)
        for alpha in rows.by_alpha():
            at = _beyond(rows, part, alpha, target, targets[part, None])
            near[part] |= at_least(rows.joined(part, alpha, others, popular), at) < allowed[part]
    return near.nonzero()[:, 0]


def _contested(rows: HeldOut, targets: Tensor, allowed: Tensor, popular: Tensor) -> Tensor:
    """Return those of the rows where mixtures may bring the target among the first; names as above.

    An item that has a higher score before a mixture and no smaller share is above the target after it.
    """
    contested = torch.zeros_like(targets, dtype=torch.bool)
    column = targets.new_full((len(rows.table),), len(popular))
    column[popular] = torch.arange(len(popular), device=popular.device)
    for part in rows.blocks(torch.arange(len(targets), device=targets.device), len(popular)):
        target, others = rows.logits(part, targets[part, None]), rows.logits(part, popular)
        said: dict[float, Tensor] = {}
        for alpha, places in rows.by_alpha().items():
            at = _beyond(rows, part, alpha, target, targets[part, None])
            above = rows.joined(part, alpha, others, popular) >= at
            for mixture in rows.mixtures(places):
                stays = above
                if mixture is not None:
                    sharpness = float(mixture.sharpness)
                    if sharpness not in said:
                        said[sharpness] = _no_smaller(
                            rows.log_shares(mixture).of(part), targets[part], column
                        )
                    stays = above & said[sharpness]
                contested[part] |= stays.sum(1) < allowed[part]
    return contested.nonzero()[:, 0]


def _no_smaller(said: LogShares, targets: Tensor, column: Tensor) -> Tensor:
    """Tell which items have no smaller share than the target, shape [b, n].

    ``column``, shape [N], gives each of the ``n`` items its place, and the others ``n``.
    """
    own = said.share.new_full((len(targets),), -torch.inf)
    is_target = (said.item == targets[said.row]).nonzero()[:, 0]
    own[said.row[is_target]] = said.share[is_target] + MARGIN
    large = (said.share >= own[said.row]).nonzero()[:, 0]
    found = own.isneginf()[:, None].repeat(1, int(column.max()) + 1)
    found[said.row[large], column[said.item[large]]] = True
    return found[:, :-1]


def _beyond(
    rows: HeldOut, part: Tensor, alpha: float, logits: tuple[Tensor, Tensor | None], targets: Tensor
) -> Tensor:
    """Return scores that are surely above those of targets before a mixture, shape [b, 1]."""
    at = rows.joined(part, alpha, logits, targets)
    offsets = rows.offsets(part)
    if offsets is not None:
        at = at + offsets.of(targets)
    return at + MARGIN * (1 + at.abs())


def _ranks_of(rows: HeldOut, part: Tensor, targets: Tensor, history: _History) -> Tensor:
    """Rank the targets of some rows under both protocols and each setting, shape [2, S, b]."""
    ranks = targets.new_empty(2, len(rows.settings), len(targets))
    logits, offsets = rows.logits(part), rows.offsets(part)
    seen = torch.zeros(len(part), len(rows.table), dtype=torch.bool, device=targets.device)
    seen[history.row, history.item] = True
    named: dict[float, _Named] = {}
    for alpha, places in rows.by_alpha().items():
        scores = rows.joined(part, alpha, logits)
        if offsets is not None:
            scores = offsets.add_to(scores.clone())
        at, total = scores.gather(1, targets[:, None])[:, 0], scores.logsumexp(1)
        raised: dict[float, _Raised] = {}
        for place in places:
            mixture, wanted = rows.mixture(rows.settings[place]), at
            passed = again = torch.zeros_like(targets)
            if mixture is not None:
                sharpness = float(mixture.sharpness)
                if sharpness not in named:
                    named[sharpness] = _Named(rows.log_shares(mixture).of(part), targets, seen)
                if sharpness not in raised:
                    raised[sharpness] = _Raised(named[sharpness], scores, total, at)
                wanted, passed, again = raised[sharpness].pass_by(mixture)
            others = at_least(scores[:, 1:], wanted[:, None]) - (at >= wanted).long()
            unmasked = others + passed
            above = scores[history.row, history.item] >= wanted[history.row]
            ranks[0, place] = unmasked
            ranks[1, place] = without_history(unmasked - again, above, targets, history.row, history.item)
    return ranks


class _Named:
    """The items that a mixture gives a share in some rows, shape [V], and the targets among them.

    Parameters
    ----------
    said : LogShares
    targets : int64 Tensor, shape [b]
    seen : bool Tensor, shape [b, N]
        Items of the history.
    """

    def __init__(self, said: LogShares, targets: Tensor, seen: Tensor) -> None:
        self.said = said
        self.seen = seen[said.row, said.item]
        is_target = said.item == targets[said.row]
        self.target_row = said.row[is_target]
        share = said.share.new_full((len(targets),), -torch.inf)
        self.target_share = share.index_put_((self.target_row,), said.share[is_target])
        self.large = ~is_target & (said.share >= self.target_share[said.row] - MARGIN)
        self.others = ~is_target


class _Raised:
    """Those of the items, besides the target, that may pass the target of their row; before a mixture.

    An item with a lower score and a smaller share than the target stays below it.

    Parameters
    ----------
    named : _Named
    scores : Tensor, shape [b, N]
        Before the mixture; ``total``, shape [b], are the logs of the sums of their exponentials.
    at : Tensor, shape [b]
        The targets' scores.
    """

    def __init__(self, named: _Named, scores: Tensor, total: Tensor, at: Tensor) -> None:
        said, self.at = named.said, at
        before = scores[said.row, said.item]
        high = named.others & (before >= (at - MARGIN * (1 + at.abs()))[said.row])
        kept = (named.large | high).nonzero()[:, 0]
        self.row, self.before, self.seen = said.row[kept], before[kept], named.seen[kept]
        self.lifts = lifts(self.before, total[self.row], said.share[kept])
        self.target_row = named.target_row
        self.target_lifts = lifts(
            at[self.target_row], total[self.target_row], named.target_share[self.target_row]
        )

    def pass_by(self, mixture: Mixture) -> tuple[Tensor, Tensor, Tensor]:
        """Raise the scores of targets, shape [b], and count the items that were below and are not now.

        Returns
        -------
        tuple of Tensor, shape [b]
            The targets' scores, how many passed them, and how many of these are in the history.
        """
        wanted = self.at.clone()
        wanted[self.target_row] += mixture.raised(self.target_lifts)
        needed = wanted[self.row]
        passed = (self.before < needed) & (self.before + mixture.raised(self.lifts) >= needed)
        return (
            wanted,
            torch.bincount(self.row[passed], minlength=len(wanted)),
            torch.bincount(self.row[passed & self.seen], minlength=len(wanted)),
        )
