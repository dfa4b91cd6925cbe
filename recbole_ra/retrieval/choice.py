"""How much the memories may say: chosen on validation, and nothing unless it is better than the backbone.

One weight after another is chosen, each with the others as they are by then. What a candidate is worth on the
held-out rows is measured in ``candidates.py``, all those of a round together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from recbole_ra.data.table import IntArray
from recbole_ra.retrieval.candidates import metric_of_rows
from recbole_ra.retrieval.held_out import set_weights
from recbole_ra.retrieval.mixture import MIXTURES
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.settings.recbole import split_metric
from recbole_ra.training.evaluation import PROTOCOLS, error_over_users, row_metric
from recbole_ra.training.loaders import EvalBatches

ALPHAS = (0.3, 0.5, 0.7, 0.9)
MIXTURE_WEIGHTS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""Weights that are tried: of the own state, of the softmax. 1, the backbone, always is."""

BEYOND = 2.0
"""Standard errors that a gain must exceed: the best of many candidates is better than it is."""


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
        Protocol -> mean difference to this weight at 1, and its standard error over users.
    """

    setting: dict[str, Any]
    value: dict[str, float]
    gain: dict[str, float]
    error: dict[str, float]

    @classmethod
    def measured(
        cls,
        setting: Mapping[str, Any],
        values: Mapping[str, np.ndarray],
        before: Mapping[str, np.ndarray],
        users: IntArray,
    ) -> Candidate:
        """Compare the metric of each row, [rows] for each protocol, with that of the same rows before.

        ``users`` [rows] says whose they are.
        """
        gains = {name: values[name] - before[name] for name in values}
        errors = {name: error_over_users(gain, users) for name, gain in gains.items()}
        return cls(dict(setting), _means(values), _means(gains), errors)

    def as_json(self) -> dict[str, Any]:
        """Return plain values; the error of a single user, which is infinite, is None."""
        error = {name: value if math.isfinite(value) else None for name, value in self.error.items()}
        return {**asdict(self), "error": error}

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Candidate:
        """Read what :meth:`as_json` gave."""
        error = {name: math.inf if value is None else value for name, value in saved["error"].items()}
        return cls(**{**saved, "error": error})

    def helps(self, protocol: str) -> bool:
        """Whether it is better beyond two standard errors, and worse beyond one under no protocol."""
        return self.gain[protocol] > BEYOND * self.error[protocol] and not self._harmed

    @property
    def _harmed(self) -> list[str]:
        return [name for name in PROTOCOLS if self.gain[name] < -self.error[name]]

    def summary(self, protocol: str) -> str:
        """Say how much it gains, and why it does not help if it does not."""
        names = PROTOCOLS if protocol in PROTOCOLS else (protocol, *PROTOCOLS)
        gains = ", ".join(f"{name} {self.gain[name]:+.4f} ± {self.error[name]:.4f}" for name in names)
        if self.gain[protocol] <= BEYOND * self.error[protocol]:
            return f"{gains}, not beyond two standard errors"
        return gains + (f", but worse {' and '.join(self._harmed)}" if self._harmed else "")


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
    given : mapping
        Weights below 1 that were not chosen but given.
    """

    metric: str
    protocol: str
    steps: list[Step]
    given: dict[str, float] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, float]:
        """All that was chosen."""
        return {name: value for step in self.steps for name, value in step.chosen.items()}

    def summary(self) -> str:
        """Say in one line what was chosen, and why."""
        found = {step.weight: self._about(step) for step in self.steps}
        given = ", ".join(f"{name} {value:g}" for name, value in self.given.items())
        if all(step.keeps for step in self.steps):
            best = "; ".join(found.values())
            if given:
                return f"{given} as given; nothing helps beside it (best {best})"
            return f"the backbone was kept: memories do not help (best {best})"
        helping = "; ".join(found[step.weight] for step in self.steps if not step.keeps)
        idle = "; ".join(found[step.weight] for step in self.steps if step.keeps)
        what = f"{given} as given; beside it help" if given else "memories help"
        return f"{what}: {helping}" + (f" (left at 1: best {idle})" if idle else "")

    def _about(self, step: Step) -> str:
        best = step.best(self.protocol)
        setting = ", ".join(f"{name} {value:g}" for name, value in best.setting.items())
        return f"{setting}: validation {self.metric} {best.summary(self.protocol)}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        steps = [
            {**asdict(step), "candidates": [one.as_json() for one in step.candidates]} for step in self.steps
        ]
        return {**asdict(self), "steps": steps}

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Choice:
        """Read what :meth:`as_json` gave."""
        steps = [
            Step(step["weight"], step["chosen"], list(map(Candidate.of_json, step["candidates"])))
            for step in saved["steps"]
        ]
        return cls(saved["metric"], saved["protocol"], steps, saved.get("given", {}))


def best_that_helps(candidates: Sequence[Candidate], protocol: str) -> Candidate:
    """Return the best candidate of those that help, or the first, which all are compared with."""
    helping = [candidate for candidate in candidates[1:] if candidate.helps(protocol)]
    return max(helping, key=lambda candidate: candidate.value[protocol], default=candidates[0])


def searched(
    recommender: RetrievalRecommender, weight: str
) -> list[Callable[[Candidate | None], list[dict[str, float]]]]:
    """List the rounds of a search: each gives the settings that are tried, from the best one so far.

    The first begins with 1; the alpha that it has now is one of them. Of a mixture the parameter is chosen
    after the weight, at that weight.
    """
    if weight == "alpha":
        assert recommender.fusion is not None, "there is no alpha without a fusion"
        alphas = sorted({1.0, *ALPHAS, round(float(recommender.fusion.alpha), 6)}, reverse=True)
        return [lambda best: [{"alpha": alpha} for alpha in alphas]]
    mixture = recommender.mixture
    assert mixture is not None, "there is no mixture_weight without a mixture"
    first, *others = next(values for kind, values in MIXTURES.values() if isinstance(mixture, kind))
    name = mixture.parameter

    def parameters(best: Candidate | None) -> list[dict[str, float]]:
        assert best is not None, "a weight was chosen before"
        return [] if best.setting[weight] == 1 else [{**best.setting, name: value} for value in others]

    return [lambda best: [{weight: share, name: first} for share in (1.0, *MIXTURE_WEIGHTS)], parameters]


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
        ``alpha`` and ``mixture_weight`` in the order in which they are chosen. Those that come later are 1
        meanwhile.
    """
    recommender.eval()
    protocol, metric = split_metric(valid_metric)
    metric = row_metric(metric)
    given = {name: value for name, value in recommender.weights.items() if name not in weights and value < 1}
    steps: list[Step] = []
    rounds = {weight: searched(recommender, weight) for weight in weights}
    set_weights(recommender, dict.fromkeys(weights, 1.0))
    for weight in weights:
        candidates: list[Candidate] = []
        before: dict[str, np.ndarray] = {}
        best = None
        for settings in rounds[weight]:
            tried = settings(best)
            if not tried:
                continue
            measured = metric_of_rows(recommender, batches, tried, metric)
            before = before or measured[0]
            candidates += [
                Candidate.measured(setting, values, before, batches.users)
                for setting, values in zip(tried, measured, strict=True)
            ]
            best = best_that_helps(candidates, protocol)
        assert best is not None, "every weight is tried"
        set_weights(recommender, best.setting)
        steps.append(Step(weight, best.setting, candidates))
    return Choice(metric, protocol, steps, given)


def _means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(part.mean()) for name, part in values.items()}
