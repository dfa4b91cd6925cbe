"""What a sweep shows and saves while it runs."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from recbole_ra.core.console import say
from recbole_ra.tuning.options import Sweep
from recbole_ra.tuning.table import Trial, best_trial, trials_table, write_trials
from recbole_ra.tuning.trial import BEST_VALUE, short_name

ROWS = 20

RAISED = re.compile(r"(?:[a-z_]\w*\.)*([A-Z]\w*(?:Error|Exception|Exit|Interrupt))((?:: .*)?)$")
"""The line of a traceback that names the error: its class, with its modules, and the message."""


class SweepProgress(Callback):
    """Keeps ``trials.csv`` up to date; a table on a terminal, a line a trial elsewhere."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.trials: list[Any] = []
        self.live: Live | None = None
        if sys.stderr.isatty() and sweep.config["show_progress"]:
            self.live = Live(
                console=Console(stderr=True, markup=False, emoji=False),
                get_renderable=lambda: self.table(ROWS),
                refresh_per_second=1,
                transient=True,
            )
            self.live.start()

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Take the trials that the table shows."""
        self.trials = trials

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Save, and tell how the trial ended."""
        self._end(trials, trial, self._ending(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Save, and tell what was wrong."""
        self._end(trials, trial, "failed")

    def _end(self, trials: list[Any], trial: Any, status: str) -> None:
        """Save and show a trial that will not go on; Ray says so in its status only later."""
        self.trials = trials
        records = self.records()
        place = [record.name for record in records].index(short_name(trial.trial_id))
        record = records[place] = replace(records[place], status=status, error=_error_of(trial))
        write_trials(records, self.sweep.folder / "trials.csv", self.sweep.metric)
        if self.live is None and self.sweep.config["show_progress"]:
            done = sum(other.status in ("finished", "stopped", "failed") for other in records)
            best = best_trial(records, bigger=self.sweep.bigger)
            say(
                f"{done}/{self.sweep.n_trials} {record.name} {record.status}: {record.chosen}, "
                f"valid {self.sweep.metric} {'–' if math.isnan(record.best) else f'{record.best:.4f}'}, "
                f"{record.epochs} epochs, {record.seconds:.0f} s{record.error and ': ' + record.error}"
                f"{f', best so far {best.best:.4f} ({best.name})' if best else ''}"
            )

    def close(self) -> None:
        """Take the live table away."""
        if self.live is not None:
            self.live.stop()

    def table(self, limit: int | None = None) -> Table:
        """Make a table of the trials, best first."""
        return trials_table(self.records(), self.sweep.metric, bigger=self.sweep.bigger, limit=limit)

    def records(self) -> list[Trial]:
        """List Ray's trials as ours, in the order in which they were made, which a resumed Ray forgets."""
        return [self._record(trial) for trial in sorted(self.trials, key=_number)]

    def _record(self, trial: Any) -> Trial:
        last = trial.last_result or {}
        known = {"RUNNING": "running", "ERROR": "failed"}.get(trial.status, "waiting")
        return Trial(
            name=short_name(trial.trial_id),
            parameters=self.sweep.space.as_settings(trial.config),
            status=self._ending(trial) if trial.status == "TERMINATED" else known,
            best=last.get(BEST_VALUE, math.nan),
            best_epoch=last.get("best_epoch"),
            epochs=last.get("epochs", 0),
            seconds=float(last.get("time_total_s", 0.0)),
            error=_error_of(trial) if trial.status == "ERROR" else "",
        )

    def _ending(self, trial: Any) -> str:
        """Tell a trial that came to its end from one that was stopped."""
        folder = self.sweep.trials_folder / short_name(trial.trial_id)
        return "finished" if any(folder.glob("*/result.json")) else "stopped"


def _number(trial: Any) -> int:
    """Return the number of a trial, with which its tag begins."""
    found = re.match(r"\d+", trial.experiment_tag or "")
    return int(found.group()) if found else 0


def _error_of(trial: Any) -> str:
    """Return what a failed trial raised, without the module of its class: one line."""
    file = trial.error_file
    if file is None or not Path(file).exists():
        return ""
    lines = [line for line in Path(file).read_text(errors="replace").splitlines() if line.strip()]
    raised = [found for found in map(RAISED.match, lines) if found]
    return f"{raised[-1][1]}{raised[-1][2]}" if raised else (lines or [""])[-1].strip()
