"""One trial: a run of the pipeline that reports its validation metric after every epoch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from recbole_ra.core.files import digest_bytes, remove, write_bytes
from recbole_ra.retrieval.finetuning import RAFT
from recbole_ra.training.checkpoint import BEST, LAST
from recbole_ra.training.evaluation import flat_result
from recbole_ra.training.trainer import CHECKPOINT
from recbole_ra.tuning.cluster import gpu_settings
from recbole_ra.tuning.options import Sweep

BEST_VALUE = "best"
EPOCH = "epoch.txt"
STARTED_FROM = "started_from.txt"


def short_name(trial_id: str) -> str:
    """Ray's name of a trial without what all trials of a sweep have in common."""
    return trial_id.rpartition("_")[2]


def train_trial(chosen: dict[str, Any], sweep: Sweep, uses_gpu: bool) -> None:
    """Run the pipeline with the chosen values; what Ray calls.

    A trial that was interrupted continues from its last epoch, and what other trials made (backbone,
    bank, …) is taken from them. Epochs that were trained before are reported again, so that Ray sees
    the same course as without the interruption. The test split is not looked at.
    """
    from recbole_ra.pipeline.runner import run

    folder = sweep.trials_folder / short_name(tune.get_context().get_trial_id())
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        **sweep.settings,
        **sweep.space.as_settings(chosen),
        **gpu_settings(uses_gpu),
        "resume": True,
        "output_dir": str(folder),
        "show_progress": True,  # a line an epoch in the log; bars need a terminal
    }
    start = _keep_start(folder)
    reporter = Reporter(sweep, after=None if start is None else int((start.parent / EPOCH).read_text()))
    with open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log:
        result = run(
            sweep.config.model,
            sweep.config.dataset,
            **settings,
            evaluate_test=False,
            start_from=start,
            on_epoch=reporter,
            say=lambda line: print(line, file=log),
        )
    # Of population based training an iteration is an epoch that others may go on from; this is none.
    if sweep.config.uses_retrieval and sweep.options.scheduler != "pbt":
        reporter.finish(result.valid)


def _keep_start(folder: Path) -> Path | None:
    """Keep the checkpoint of another trial that this one goes on from in its folder."""
    given = tune.get_checkpoint()
    if given is None:
        return None
    with given.as_directory() as source:
        key = digest_bytes((Path(source) / LAST).read_bytes())[:16]
        kept = folder / f"start-{key}"
        shutil.copytree(source, kept, dirs_exist_ok=True)
    write_bytes(folder / STARTED_FROM, kept.name.encode())
    for other in folder.glob("start-*"):  # only the last is gone on from
        if other != kept:
            remove(other)
    return kept / LAST


def start_of(folder: Path) -> Path | None:
    """Find the checkpoint that a trial went on from the last time."""
    try:
        return folder / (folder / STARTED_FROM).read_text() / LAST
    except FileNotFoundError:
        return None


class Reporter:
    """Tells Ray of each epoch of the last stage: fine-tuning where the model has it, else the backbone.

    Parameters
    ----------
    after : int, optional
        The last epoch of another trial that this one goes on from; those up to it were measured with that
        one's values and are no news.
    """

    def __init__(self, sweep: Sweep, *, after: int | None) -> None:
        self.metric, self.bigger, self.after = sweep.metric, sweep.bigger, after
        self.stage = RAFT if sweep.config.uses_retrieval else sweep.config.backbone
        # Only population based training lets a trial go on from another one's checkpoint.
        self.checkpoint_every = sweep.grace if sweep.options.scheduler == "pbt" else 0
        self.best: float | None = None
        self.best_epoch = 0
        self.epochs = 0
        self.last: dict[str, Any] = {}

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """Report an epoch; the metric is the best value so far, since that is what training selects.

        Of equal epochs the last is the best one, as in training.
        """
        if entry["stage"] != self.stage or self.metric not in entry:
            return
        value, self.epochs = float(entry[self.metric]), self.epochs + 1
        if self.after is not None and entry["epoch"] <= self.after:
            return
        if self.best is None or (value >= self.best if self.bigger else value <= self.best):
            self.best, self.best_epoch = value, int(entry["epoch"])
        if self.after is not None and CHECKPOINT not in entry:
            return
        metrics = self.last = {
            BEST_VALUE: self.best,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "value": value,
            "loss": entry["loss"],
        }
        if self.checkpoint_every and CHECKPOINT in entry and self.epochs % self.checkpoint_every == 0:
            last = Path(entry[CHECKPOINT])
            with tempfile.TemporaryDirectory() as folder:
                for file in (last, last.with_name(BEST)):
                    shutil.copy(file, folder)
                (Path(folder) / EPOCH).write_text(str(entry["epoch"]))
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))
        else:
            tune.report(metrics)

    def finish(self, valid: dict[str, dict[str, float]]) -> None:
        """Report what the finished model reaches: weights of memories are chosen after the last epoch."""
        value = flat_result(valid)[self.metric]
        tune.report({**self.last, BEST_VALUE: value, "value": value})
