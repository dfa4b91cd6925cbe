"""How much the memories may say: chosen on validation, and nothing unless it is better than the backbone.

One weight after another is chosen, each with the others as they are by then. The backbone's logits ``h E``,
the memories' ``h' E`` and the shares of a mixture are made once for each row; every candidate is a mixture of
them, so that all candidates together cost about as much as validating a few epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from recbole_ra.models.history import ItemOffsets
from recbole_ra.retrieval.mixture import MIXTURES, Mixture, lifts
from recbole_ra.retrieval.recommender import RetrievalRecommender, Retrieved
from recbole_ra.settings.recbole import split_metric
from recbole_ra.training.evaluation import PROTOCOLS, of_rows, ranks
from recbole_ra.training.loaders import EvalBatches

ALPHAS = (0.3, 0.5, 0.7, 0.9)
MIXTURE_WEIGHTS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Weights that are tried: of the own state, of the softmax. 1, the backbone, always is."""

BEYOND = 2.0
"""Standard errors that a gain must exceed: the best of many candidates is better than it is."""

CPU_BLOCK_ELEMENTS = 1 << 20
GPU_BLOCK_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Candidate:
    """A way to weigh the memories, and what validation says of it.

    Attributes
    ----------
    setting : mapping
        The weight, and what else is chosen with it.
    value : mapping
        Protocol -> the validation metric.
    gain, error : mapping
        Protocol -> mean difference over users to this weight at 1, and the standard error of that mean.
    """

    setting: dict[str, Any]
    value: dict[str, float]
    gain: dict[str, float]
    error: dict[str, float]

    @classmethod
    def measured(
        cls, setting: Mapping[str, Any], values: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
    ) -> Candidate:
        """Compare the metric of each row, [rows] for each protocol, with that of the same rows before."""
        return cls(dict(setting), _means(values), *_paired(values, before))

    def helps(self, protocol: str) -> bool:
        """Whether it is better beyond two standard errors, and worse beyond one under no protocol."""
        harms = any(self.gain[name] < -self.error[name] for name in PROTOCOLS)
        return self.gain[protocol] > BEYOND * self.error[protocol] and not harms


@dataclass(frozen=True)
class Step:
    """One weight: what was chosen, and from what.

    Attributes
    ----------
    weight : str
        ``alpha`` or ``mixture_weight``.
    chosen : mapping
        1 keeps what was there before.
    candidates : list of Candidate
        The weight 1 first.
    """

    weight: str
    chosen: dict[str, float]
    candidates: list[Candidate]

    @property
    def keeps(self) -> bool:
        """Whether no candidate was better."""
        return self.chosen[self.weight] == 1

    def best(self, protocol: str) -> Candidate:
        """Return the candidate that was chosen, or would have been first below 1."""
        shown = [
            candidate
            for candidate in self.candidates
            if (candidate.setting[self.weight] < 1 if self.keeps else candidate.setting == self.chosen)
        ]
        return max(shown, key=lambda candidate: candidate.gain[protocol])


@dataclass(frozen=True)
class Choice:
    """The weights that were chosen on validation, in that order.

    Attributes
    ----------
    metric, protocol : str
    steps : list of Step
    """

    metric: str
    protocol: str
    steps: list[Step]

    @property
    def chosen(self) -> dict[str, float]:
        """All that was chosen."""
        return {name: value for step in self.steps for name, value in step.chosen.items()}

    @property
    def keeps_backbone(self) -> bool:
        """Whether no step was better than the backbone."""
        return all(step.keeps for step in self.steps)

    def backbone_epoch(self, stage: str) -> dict[str, Any]:
        """Return the backbone as the epoch before the first of a history."""
        value = self.steps[0].candidates[0].value
        found = {
            name if name == "unmasked" else f"{name}_{self.metric}": part for name, part in value.items()
        }
        found[self.metric] = found.pop("unmasked")
        return {"stage": stage, "epoch": -1, **found}

    def said(self) -> str:
        """Say in one line what was chosen, and why."""
        found = {step.weight: self._about(step) for step in self.steps}
        if self.keeps_backbone:
            best = "; ".join(found.values())
            return f"the backbone was kept: memories do not help beyond two standard errors (best {best})"
        helping = "; ".join(found[step.weight] for step in self.steps if not step.keeps)
        idle = "; ".join(
            f"{found[step.weight]}, not beyond two standard errors" for step in self.steps if step.keeps
        )
        return f"memories help: {helping}" + (f" (left at 1: best {idle})" if idle else "")

    def _about(self, step: Step) -> str:
        best = step.best(self.protocol)
        gains = ", ".join(f"{name} {best.gain[name]:+.4f} ± {best.error[name]:.4f}" for name in PROTOCOLS)
        setting = ", ".join(f"{name} {value:g}" for name, value in best.setting.items())
        return f"{setting}: validation {self.metric} {gains}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Choice:
        """Read what :meth:`as_json` gave."""
        steps = [
            Step(step["weight"], step["chosen"], [Candidate(**one) for one in step["candidates"]])
            for step in saved["steps"]
        ]
        return cls(saved["metric"], saved["protocol"], steps)


def searched(
    recommender: RetrievalRecommender, weight: str
) -> list[Callable[[Candidate | None], list[dict[str, float]]]]:
    """List the rounds of a search: each gives the settings that are tried, from the best one so far.

    The first begins with 1. Of a mixture the parameter is chosen after the weight, at that weight.
    """
    if weight == "alpha":
        assert recommender.fusion is not None, "there is no alpha without a fusion"
        alphas = sorted({1.0, *ALPHAS, float(recommender.fusion.alpha)}, reverse=True)
        return [lambda best: [{"alpha": alpha} for alpha in alphas]]
    mixture = recommender.mixture
    assert mixture is not None, "there is no mixture_weight without a mixture"
    first, *others = next(values for kind, values in MIXTURES.values() if isinstance(mixture, kind))
    name = mixture.parameter

    def parameters(best: Candidate | None) -> list[dict[str, float]]:
        assert best is not None, "a weight was chosen before"
        return [] if best.setting[weight] == 1 else [{**best.setting, name: value} for value in others]

    return [lambda best: [{weight: share, name: first} for share in (1.0, *MIXTURE_WEIGHTS)], parameters]


def use(recommender: RetrievalRecommender, setting: Mapping[str, float]) -> None:
    """Score with these weights from now on."""
    fusion, mixture = recommender.fusion, recommender.mixture
    if fusion is not None and "alpha" in setting:
        fusion.alpha.fill_(setting["alpha"])
    if mixture is not None and "mixture_weight" in setting:
        mixture.weight.fill_(setting["mixture_weight"])
    if mixture is not None and mixture.parameter in setting:
        mixture.sharpness.fill_(setting[mixture.parameter])


@torch.no_grad()
def choose(
    recommender: RetrievalRecommender, batches: EvalBatches, valid_metric: str, weights: Sequence[str]
) -> Choice:
    """Measure every candidate on held-out rows, and use the best one that helps.

    Parameters
    ----------
    recommender : RetrievalRecommender
        Its weights are set.
    batches : EvalBatches
        Of the validation rows; queries may be known (:class:`Retrieved`) or not.
    valid_metric : str
        As :func:`split_metric` reads it: under which protocol to choose, or under the mean of both.
    weights : sequence of str
        ``mixture_weight`` and ``alpha`` in the order in which they are chosen. Those that come later are 1
        meanwhile.
    """
    recommender.eval()
    protocol, metric = split_metric(valid_metric)
    steps = []
    use(recommender, dict.fromkeys(weights, 1.0))
    for weight in weights:
        candidates: list[Candidate] = []
        before: dict[str, np.ndarray] = {}
        best = None
        for settings in searched(recommender, weight):
            tried = settings(best)
            if not tried:
                continue
            measured = _measured(recommender, batches, tried, metric)
            before = before or measured[0]
            candidates += [
                Candidate.measured(setting, values, before)
                for setting, values in zip(tried, measured, strict=True)
            ]
            helping = [candidate for candidate in candidates if candidate.helps(protocol)]
            best = max(helping, key=lambda candidate: candidate.value[protocol], default=candidates[0])
        assert best is not None, "every weight is tried"
        use(recommender, best.setting)
        steps.append(Step(weight, best.setting, candidates))
    return Choice(metric, protocol, steps)


def _measured(
    recommender: RetrievalRecommender,
    batches: EvalBatches,
    settings: Sequence[Mapping[str, float]],
    metric: str,
) -> list[dict[str, np.ndarray]]:
    """Return the metric of each row under each setting, for each protocol and their mean."""
    found: list[dict[str, list[Tensor]]] = [{name: [] for name in PROTOCOLS} for _ in settings]
    device = recommender.item_table.device
    for batch in batches:
        query = batch.query.to(device)
        scores = _Scores(recommender, query if isinstance(query, Retrieved) else recommender.query(query))
        for rows in scores.blocks():
            inside = (batch.history_row >= rows.start) & (batch.history_row < rows.stop)
            history = batch.history_row[inside] - rows.start, batch.history_item[inside]
            facts = [part.to(device) for part in (batch.targets[rows], *history)]
            for place, part in enumerate(scores.under(settings, rows)):
                for name, rank in zip(PROTOCOLS, ranks(part, *facts), strict=True):
                    found[place][name].append(rank.cpu())
    return [
        with_mean({name: of_rows(metric, torch.cat(parts)) for name, parts in one.items()}) for one in found
    ]


def with_mean(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the mean over the protocols to the values of each row."""
    return {**values, "mean": np.mean([values[name] for name in PROTOCOLS], axis=0)}


class _Scores:
    """Scores of a batch of queries under any setting, block by block of rows.

    Parameters
    ----------
    recommender : RetrievalRecommender
    query : Retrieved, shape [B]
    """

    def __init__(self, recommender: RetrievalRecommender, query: Retrieved) -> None:
        self.recommender, self.query = recommender, query
        self.table, self.bias = recommender.item_table, recommender.item_bias
        self.memories = recommender.memories(query)
        self.history = recommender.base.history_offsets(query.states, query.histories)
        facts = query.states, self.memories.keys, self.memories.values, self.memories.valid
        if recommender.fusion is not None:
            self.read = recommender.fusion.read(*facts)
            self.doubt = recommender.fusion.doubt(*facts, self.read, recommender.entropy)
        self._shares: dict[float, tuple[Tensor, Tensor]] = {}

    def blocks(self) -> Iterator[slice]:
        """Give rows whose scores stay in the cache, in blocks."""
        on_cpu = self.table.device.type == "cpu"
        size = max(1, (CPU_BLOCK_ELEMENTS if on_cpu else GPU_BLOCK_ELEMENTS) // len(self.table))
        for first in range(0, len(self.query), size):
            yield slice(first, min(first + size, len(self.query)))

    def under(self, settings: Sequence[Mapping[str, float]], rows: slice) -> Iterator[Tensor]:
        """Give the scores of some rows under each setting, shape [rows, N]."""
        own = self.query.states[rows] @ self.table.T
        said = None if self.recommender.fusion is None else self.read[rows] @ self.table.T
        fused, at = own, math.nan
        lifted: dict[float, tuple[Tensor, Tensor]] = {}
        for setting in settings:
            use(self.recommender, setting)
            alpha = 1.0 if self.recommender.fusion is None else float(self.recommender.fusion.alpha)
            if alpha != at:
                fused, at, lifted = self._fused(own, said, rows), alpha, {}
            mixture = self.recommender.mixture
            if mixture is None or mixture.is_off:
                yield fused
                continue
            sharpness = float(mixture.sharpness)
            if sharpness not in lifted:
                items, shares = self._said(mixture, sharpness, rows)
                lifted[sharpness] = items, lifts(fused, items, shares)
            items, higher = lifted[sharpness]
            yield ItemOffsets(items, mixture.raised(higher)).add_to(fused.clone())

    def _fused(self, own: Tensor, said: Tensor | None, rows: slice) -> Tensor:
        """Return the scores before anything is mixed into them, from the logits of both sides."""
        scores, fusion = own, self.recommender.fusion
        if fusion is not None and said is not None:
            doubt = None if self.doubt is None else self.doubt[rows]
            a, b = fusion.weights(fusion.alpha.to(own.dtype), self.memories.valid[rows], doubt)
            scores = torch.addcmul(own * a, said, b)
        if self.bias is not None:
            scores = scores + self.bias
        if self.history is not None:
            part = ItemOffsets(self.history.items[rows], self.history.values[rows])
            scores = part.add_to(scores.clone())
        return scores

    def _said(self, mixture: Mixture, sharpness: float, rows: slice) -> tuple[Tensor, Tensor]:
        """What the memories say of some rows, without columns that none of these needs."""
        if sharpness not in self._shares:
            self._shares[sharpness] = mixture.shares(self.query, self.memories)
        items, shares = (part[rows] for part in self._shares[sharpness])
        there = torch.isfinite(shares).any(0).nonzero()
        used = int(there.max()) + 1 if len(there) else 0
        return items[:, :used], shares[:, :used]


def _means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(part.mean()) for name, part in values.items()}


def _paired(
    values: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean difference to the backbone, and its standard error, of each protocol."""
    gains = {name: values[name] - before[name] for name in values}
    errors = {name: float(stats.sem(gain)) if len(gain) > 1 else math.inf for name, gain in gains.items()}
    return _means(gains), errors
