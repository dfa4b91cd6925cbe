"""What a sweep shows and saves while it runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live

from recbole_ra.report.sweep import Trial, best_trial, trials_table, value_text, write_trials
from recbole_ra.tuning.options import Sweep
from recbole_ra.tuning.trial import BEST, TrialPlan, short_name

REFRESH_S = 1.0
ROWS = 20


class SweepProgress(Callback):
    """Keeps ``trials.csv`` up to date; a table on a terminal, a line a trial elsewhere.

    Parameters
    ----------
    sweep : Sweep
    plan : TrialPlan
    """

    def __init__(self, sweep: Sweep, plan: TrialPlan) -> None:
        self.sweep, self.plan = sweep, plan
        self.trials: list[Any] = []
        self.live: Live | None = None
        self.shown = 0.0
        if sys.stderr.isatty() and sweep.config["show_progress"]:
            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Draw the table anew, at most once a second."""
        self.trials = trials
        if self.live is not None and monotonic() - self.shown >= REFRESH_S:
            self.live.update(self.table(self.records(), ROWS), refresh=True)
            self.shown = monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Save, and tell how the trial ended."""
        self.ended(trials, trial, "finished" if self.plan.is_finished(trial.trial_id) else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Save, and tell what was wrong."""
        self.ended(trials, trial, "failed")

    def ended(self, trials: list[Any], trial: Any, status: str) -> None:
        """A trial will not go on; Ray says so in its status only later."""
        self.trials = trials
        records = self.records()
        place = [record.name for record in records].index(short_name(trial.trial_id))
        records[place] = replace(records[place], status=status, error=_error_of(trial))
        write_trials(records, self.sweep.folder / "trials.csv", self.sweep.metric)
        if self.live is None and self.sweep.config["show_progress"]:
            print(self.line(records[place], records), file=sys.stderr, flush=True)

    def line(self, record: Trial, records: Sequence[Trial]) -> str:
        """One trial in one line, and the best so far."""
        done = sum(other.status in ("finished", "stopped", "failed") for other in records)
        chosen = " ".join(f"{name}={value_text(value)}" for name, value in record.parameters.items())
        best = best_trial(records, bigger=self.sweep.bigger)
        value = "–" if record.best is None else f"{record.best:.4f}"
        so_far = "" if best is None else f", best so far {best.best:.4f} ({best.name})"
        return (
            f"{done}/{self.sweep.n_trials} {record.name} {record.status}: {chosen}, "
            f"valid {self.sweep.metric} {value}, {record.epochs} epochs, {record.seconds:.0f} s"
            f"{': ' + record.error if record.error else ''}{so_far}"
        )

    def close(self) -> None:
        """Take the live table away."""
        if self.live is not None:
            self.live.stop()

    def table(self, records: Sequence[Trial], limit: int | None = None) -> Any:
        """The trials, best first."""
        return trials_table(records, self.sweep.metric, bigger=self.sweep.bigger, limit=limit)

    def records(self) -> list[Trial]:
        """Ray's trials as ours, in the order in which they were made, which a resumed Ray forgets."""
        return [self.record(trial) for trial in sorted(self.trials, key=_number)]

    def record(self, trial: Any) -> Trial:
        """One of Ray's trials as ours."""
        last = trial.last_result or {}
        return Trial(
            name=short_name(trial.trial_id),
            parameters=self.plan.space.settle(trial.config),
            status=self.status(trial),
            best=last.get(BEST),
            best_epoch=last.get("best_epoch"),
            epochs=last.get("epochs", 0),
            seconds=float(last.get("time_total_s", 0.0)),
            error=_error_of(trial) if trial.status == "ERROR" else "",
        )

    def status(self, trial: Any) -> str:
        """Ray's word for how a trial stands, in ours."""
        if trial.status == "TERMINATED":
            return "finished" if self.plan.is_finished(trial.trial_id) else "stopped"
        return {"RUNNING": "running", "ERROR": "failed"}.get(trial.status, "waiting")


def _number(trial: Any) -> int:
    """Which trial it is: its tag begins with that, and goes on with what was chosen."""
    found = re.match(r"\d+", trial.experiment_tag or "")
    return int(found.group()) if found else 0


def _error_of(trial: Any) -> str:
    """The last line of what a failed trial raised, without the module of its class."""
    file = trial.error_file
    if file is None or not Path(file).exists():
        return ""
    lines = [line for line in Path(file).read_text(errors="replace").splitlines() if line.strip()]
    kind, colon, message = (lines[-1] if lines else "").partition(":")
    return f"{kind.rpartition('.')[2]}{colon}{message}"
