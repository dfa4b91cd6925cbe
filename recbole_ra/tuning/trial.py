"""One trial: a run of the pipeline that reports its validation metric after every epoch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from recbole_ra.core.files import digest_bytes, write_bytes
from recbole_ra.retrieval.finetuning import RAFT
from recbole_ra.training.trainer import CHECKPOINT
from recbole_ra.tuning.cluster import gpu_settings
from recbole_ra.tuning.options import Sweep
from recbole_ra.tuning.space import Space

BEST = "best"
LAST = "last.pt"
STARTED_FROM = "started_from.txt"


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep have in common; plain data that Ray can send to another machine.

    Attributes
    ----------
    model, dataset : str
    settings : mapping
        Of every trial.
    space : Space
    stage : str
        Whose epochs are reported: fine-tuning where the model has it, else the backbone.
    metric : str
    bigger : bool
    folder : Path
        Receives one folder a trial.
    checkpoint_every : int
        Epochs from one checkpoint for other trials to the next, 0 if none goes on from another.
    uses_gpu : bool
        Whether each is given a GPU, or a part of one.
    """

    model: str
    dataset: str
    settings: Mapping[str, Any]
    space: Space
    stage: str
    metric: str
    bigger: bool
    folder: Path
    checkpoint_every: int
    uses_gpu: bool

    @classmethod
    def of(cls, sweep: Sweep, *, uses_gpu: bool) -> TrialPlan:
        """The plan of a sweep."""
        config = sweep.config
        return cls(
            model=config.model,
            dataset=config.dataset,
            settings=sweep.settings,
            space=sweep.space,
            stage=RAFT if config.uses_retrieval else config.backbone,
            metric=sweep.metric,
            bigger=sweep.bigger,
            folder=sweep.trials_folder,
            checkpoint_every=sweep.grace if sweep.options.scheduler == "pbt" else 0,
            uses_gpu=uses_gpu,
        )

    def place(self, trial_id: str) -> Path:
        """The folder of a trial."""
        return self.folder / short_name(trial_id)

    def is_finished(self, trial_id: str) -> bool:
        """Whether a trial came to its end, and was not stopped."""
        return any(self.place(trial_id).glob("*/result.json"))


def short_name(trial_id: str) -> str:
    """Ray's name of a trial without what all trials of a sweep have in common."""
    return trial_id.rpartition("_")[2]


def train_trial(chosen: dict[str, Any], plan: TrialPlan) -> None:
    """Run the pipeline with the chosen values; what Ray calls.

    A trial that was interrupted continues from its last epoch, and what other trials made (backbone,
    bank, …) is taken from them. Epochs that were trained before are reported again, so that Ray sees
    the same course as without the interruption. The test split is not looked at.
    """
    from recbole_ra.pipeline.runner import run

    folder = plan.place(tune.get_context().get_trial_id())
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        **plan.settings,
        **plan.space.settle(chosen),
        **gpu_settings(plan.uses_gpu),
        "resume": True,
        "output_dir": str(folder),
        "show_progress": True,  # a line an epoch in the log; bars need a terminal
    }
    start = _start(folder)
    with open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log:
        run(
            plan.model,
            plan.dataset,
            **settings,
            evaluate_test=False,
            start_from=start,
            on_epoch=Reporter(plan, went_on=start is not None),
            say=lambda line: print(line, file=log),
        )


def _start(folder: Path) -> Path | None:
    """The checkpoint of another trial that this one goes on from, kept in its folder."""
    given = tune.get_checkpoint()
    if given is None:
        return None
    with given.as_directory() as source:
        key = digest_bytes((Path(source) / LAST).read_bytes())[:16]
        kept = folder / f"start-{key}"
        shutil.copytree(source, kept, dirs_exist_ok=True)
    write_bytes(folder / STARTED_FROM, kept.name.encode())
    return kept / LAST


def start_of(folder: Path) -> Path | None:
    """The checkpoint that a trial went on from the last time, or None."""
    try:
        return folder / (folder / STARTED_FROM).read_text() / LAST
    except FileNotFoundError:
        return None


class Reporter:
    """Tells Ray of each epoch of the reported stage.

    Parameters
    ----------
    plan : TrialPlan
    went_on : bool
        Whether the trial went on from another one, whose epochs then are no news.
    """

    def __init__(self, plan: TrialPlan, *, went_on: bool) -> None:
        self.plan, self.went_on = plan, went_on
        self.best: float | None = None
        self.best_epoch = 0
        self.epochs = 0

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Report an epoch; the metric is the best value so far, since that is what training selects.

        Of equal epochs the last is the best one, as in training.
        """
        plan = self.plan
        if entry["stage"] != plan.stage or plan.metric not in entry:
            return
        value, self.epochs = float(entry[plan.metric]), self.epochs + 1
        if self.best is None or (value >= self.best if plan.bigger else value <= self.best):
            self.best, self.best_epoch = value, int(entry["epoch"])
        if self.went_on and CHECKPOINT not in entry:
            return
        metrics = {
            BEST: self.best,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "value": value,
            "loss": entry["loss"],
        }
        if plan.checkpoint_every and CHECKPOINT in entry and self.epochs % plan.checkpoint_every == 0:
            self._report_checkpoint(metrics, Path(entry[CHECKPOINT]))
        else:
            tune.report(metrics)

    def _report_checkpoint(self, metrics: dict[str, Any], last: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for file in (last, last.with_name("best.pt")):
                shutil.copy(file, folder)
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
