"""Which training data a model learns from, chosen on validation: ``regenerate=auto``.

A model is trained to its end on each kind of training data: with its memories, where it has any, as what
helps a backbone may be what they bring as well. The originals are kept unless another kind is better beyond
two paired standard errors, as memories are kept out where they do not help.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from recbole_ra.core.errors import DataError
from recbole_ra.data.table import IntArray
from recbole_ra.models.origins import PARTS
from recbole_ra.models.registry import BACKBONES
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.regeneration.stage import regeneration_stage
from recbole_ra.report.plots import png_figure
from recbole_ra.retrieval.bank import bank_stage
from recbole_ra.retrieval.candidates import metric_of_rows
from recbole_ra.retrieval.choice import Candidate, best_that_helps
from recbole_ra.retrieval.finetuning import as_at_the_test, raft_stage
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.recbole import split_metric
from recbole_ra.training.backbone import backbone_stage
from recbole_ra.training.evaluation import PROTOCOLS, RankingEvaluator, row_metric, under_protocols
from recbole_ra.training.run import Run

ORIGINALS = "none"
NAMES = {ORIGINALS: "originals", "patterns": "patterns", "dr4sr": "DR4SR", "dr4sr+": "DR4SR+"}
"""Values of ``regenerate`` that are tried, and what they are called."""

UNREAD = {
    ORIGINALS: ("row_weight", "position_offset", "regenerate_epochs", "min_multiplicity", *PARTS),
    "patterns": ("min_multiplicity",),
}
"""Settings that a kind of training data does not read, and would refuse."""


@dataclass(frozen=True)
class DataChoice:
    """The training data that was chosen, and what validation says of each kind.

    Attributes
    ----------
    metric, protocol : str
    with_memories : bool
        Whether the models that were compared had them.
    chosen : str
        As ``regenerate`` names it.
    candidates : list of Candidate
        The originals first; gains are those over them.
    """

    metric: str
    protocol: str
    with_memories: bool
    chosen: str
    candidates: list[Candidate]

    @classmethod
    def among(
        cls, candidates: list[Candidate], metric: str, protocol: str, *, with_memories: bool
    ) -> DataChoice:
        """Choose the best one that helps, or the originals, which stand first."""
        best = best_that_helps(candidates, protocol)
        return cls(metric, protocol, with_memories, str(best.setting["regenerate"]), candidates)

    @property
    def measure(self) -> str:
        """What is compared, in words."""
        return f"validation {self.metric}{', with memories' * self.with_memories}"

    def summary(self) -> str:
        """Say in one line what was chosen, and why."""
        tried = "; ".join(
            f"{NAMES[candidate.setting['regenerate']]} {candidate.summary(self.protocol)}"
            for candidate in self.candidates[1:]
        )
        why = "as nothing else helps" if self.chosen == ORIGINALS else "which helps most"
        return f"training data: {NAMES[self.chosen]}, {why} ({self.measure}, over the originals: {tried})"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "candidates": [candidate.as_json() for candidate in self.candidates]}

    def save_picture(self, path: Path, title: str) -> None:
        """Draw the gain of each kind over the originals with two standard errors, under both protocols."""
        with png_figure(path, 6.4, 4.0, title) as figure:
            axes = figure.add_subplot()
            places = np.arange(len(self.candidates) - 1)
            for number, name in enumerate(PROTOCOLS):
                gain = [candidate.gain[name] for candidate in self.candidates[1:]]
                error = [2 * candidate.error[name] for candidate in self.candidates[1:]]
                axes.errorbar(places + 0.1 * number - 0.05, gain, yerr=error, fmt="o", capsize=3, label=name)
            kinds = [str(candidate.setting["regenerate"]) for candidate in self.candidates[1:]]
            axes.set_xticks(places, [NAMES[kind] + " ✓" * (kind == self.chosen) for kind in kinds])
            axes.axhline(0, color="#5a5a5a", linewidth=1)
            axes.set_ylabel(f"{self.measure},\nover the originals")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)


def choose_training_data(state: Run, mined: MinedPatterns) -> tuple[Run, DataChoice]:
    """Train on each kind of training data, and give the run that goes on with the one that is used.

    Parameters
    ----------
    state : Run
        Of the settings with ``regenerate=auto``. What is made anew or reused is made as by a run that names
        the kind, and found again by one.
    mined : MinedPatterns

    Raises
    ------
    DataError
        If there are no validation rows to choose on, or no patterns.
    """
    started, config = perf_counter(), state.config
    if not len(state.splits.valid):
        raise DataError(
            f"data set '{config.dataset}': regenerate=auto chooses on validation rows, but the split "
            "leaves none; name the training data, or choose another split with --eval_args"
        )
    tried = list(kinds(config))
    _ = mined.patterns  # refuses now what no kind but the originals could be made of
    protocol, metric = split_metric(str(config["valid_metric"]))
    metric = row_metric(metric)
    runs, candidates = {}, []
    before: Mapping[str, np.ndarray] = {}
    for kind, named in tried:
        state.say(f"training data that is tried: {NAMES[kind]}")
        # Its epochs are not passed on: they would be those of several trainings.
        runs[kind] = state.with_settings(named)
        values, users = _of_rows(runs[kind], mined, metric)
        before = before or values
        candidates.append(Candidate.measured({"regenerate": kind}, values, before, users))
    with_memories = config.uses_retrieval and config.raft.fusion != "none"
    choice = DataChoice.among(candidates, metric, protocol, with_memories=with_memories)
    state.say(choice.summary())
    state.took("choice of training data", started)
    tried_run = runs[choice.chosen]
    found = state.with_settings(tried_run.config)
    found.on_epoch, found.folders = state.on_epoch, tried_run.folders
    found.seconds = {**state.seconds, **tried_run.seconds}
    return found, choice


def kinds(config: RaConfig) -> Iterator[tuple[str, RaConfig]]:
    """Give the kinds of training data that are tried, and the settings of a run on each."""
    origins = {*config.regeneration.origins}
    personalised = (
        config.backbone in BACKBONES
        and config.run.workers == 1
        and config.regeneration.row_weight == "none"
        and not config.regeneration.regenerate_epochs
        and origins & {*config.personalisation.weighed_origins}
    )
    possible = {
        "patterns": "pattern" in origins,
        "dr4sr": "regenerated" in origins,
        "dr4sr+": "regenerated" in origins and personalised,
    }
    for kind in NAMES:
        if possible.get(kind, True):
            unread = UNREAD.get(kind, ())
            chosen = {name: value for name, value in config.chosen.items() if name not in unread}
            yield kind, RaConfig(None, None, (), {**chosen, "regenerate": kind})


def _of_rows(run: Run, mined: MinedPatterns, metric: str) -> tuple[dict[str, np.ndarray], IntArray]:
    """Train; return the metric of each validation row under each protocol, its mean over them, and its user.

    With memories the rows are those on which weights are chosen, and the bank is as at the test.
    """
    regeneration_stage(run, mined)
    backbone = backbone_stage(run)
    if not run.config.uses_retrieval:
        asked = run.evaluation(run.splits.valid, backbone.trainer.model)
        assert asked is not None, "there are validation rows"
        ranking: RankingEvaluator = backbone.trainer.rank(asked, bool(run.config["show_progress"]))
        return under_protocols(metric, ranking.ranks()), asked.users
    base = backbone.recommender(run)
    memory = bank_stage(run, mined, backbone, base)
    recommender = raft_stage(run, mined, backbone, base, memory).recommender
    recommender.eval()
    with as_at_the_test(run, recommender) as batches:
        (values,) = metric_of_rows(recommender, batches, [{}], metric)  # with the weights that were chosen
        return values, batches.users
