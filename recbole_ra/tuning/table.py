"""The trials of a sweep, as a table and as CSV."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from recbole_ra.core.files import replacing

STATUSES = ("waiting", "running", "finished", "stopped", "failed")
ABSENT = "–"


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Parameters
    ----------
    parameters : mapping of str to Any
        The settings that the sweep chose for it; all trials of a sweep have the same ones.
    status : str
        ``waiting``, ``running``, ``finished``, ``stopped`` (given up early) or ``failed``.
    best : float
        Best validation value so far, NaN if there is none.
    best_epoch : int, optional
        Epoch of that value.
    epochs : int
        Epochs trained so far.
    seconds : float
        Time spent so far.
    error : str
        Why it failed, one line.
    """

    name: str
    parameters: Mapping[str, Any]
    status: str
    best: float = math.nan
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def counts(self) -> bool:
        """Whether its value can be compared: finite, and not of a failed trial."""
        return self.status != "failed" and math.isfinite(self.best)

    @property
    def chosen(self) -> str:
        """Its parameters in one line."""
        return " ".join(f"{name}={value_text(value)}" for name, value in self.parameters.items())


def best_first(trials: Sequence[Trial], *, bigger: bool) -> list[Trial]:
    """Sort the trials whose value counts, the best one first and equals in the order given."""
    sign = -1 if bigger else 1
    return sorted((trial for trial in trials if trial.counts), key=lambda trial: sign * trial.best)


def best_trial(trials: Sequence[Trial], *, bigger: bool) -> Trial | None:
    """Return the trial with the best value, the earlier one of two equals; None if none has a value."""
    return next(iter(best_first(trials, bigger=bigger)), None)


def value_text(value: Any) -> str:
    """Write a parameter's value; numbers with a fraction in four digits."""
    is_fraction = isinstance(value, Real) and not isinstance(value, Integral)
    return f"{value:.4g}" if is_fraction else str(value)


def trials_table(trials: Sequence[Trial], metric: str, *, bigger: bool, limit: int | None = None) -> Table:
    """Make a table with one row a trial, best first and in bold, then those whose value does not count.

    The caption counts the trials by status, and those left out if there are more than ``limit``.
    """
    ranked = best_first(trials, bigger=bigger)
    rows = ranked + [trial for trial in trials if not trial.counts]
    with_errors = any(trial.error for trial in trials)

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    table.caption = _caption(trials, limit)
    # Where the terminal is narrow, errors and text give way first, numbers last.
    table.add_column("trial", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in _names(trials):
        numeric = all(isinstance(trial.parameters[name], Real) for trial in trials)
        header = "\n".join(textwrap.wrap(name.replace("_", "_ "), 12)).replace(" ", "")
        table.add_column(
            Text(header), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
        )
    for header in (metric, "epoch", "seconds"):
        table.add_column(Text(header), justify="right", no_wrap=True)
    if with_errors:
        table.add_column("error", max_width=40)
    for trial in rows[:limit]:
        cells = [
            trial.name,
            trial.status,
            *map(value_text, trial.parameters.values()),
            ABSENT if math.isnan(trial.best) else f"{trial.best:.4f}",
            f"{ABSENT if trial.best_epoch is None else trial.best_epoch}/{trial.epochs}",
            f"{trial.seconds:.1f}",
        ]
        error = [Text(trial.error, no_wrap=True, overflow="ellipsis")] if with_errors else []
        # Text and not str: a value such as [a, b] would be read as markup.
        table.add_row(*map(Text, cells), *error, style="bold" if trial in ranked[:1] else None)
    return table


def _caption(trials: Sequence[Trial], limit: int | None) -> Text:
    if not trials:
        return Text("no trials")
    counts = Counter(trial.status for trial in trials)
    by_status = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    hidden = len(trials) - len(trials[:limit])
    more = f"\n{hidden} more not shown" if hidden else ""
    return Text(f"{len(trials)} trial{'s' if len(trials) != 1 else ''}: {by_status}{more}")


def write_trials(trials: Sequence[Trial], path: Path, metric: str) -> None:
    """Write the trials as CSV, one line each, in the order given; whole or not at all.

    Columns: ``trial``, ``status``, the parameters, the metric, ``best_epoch``, ``epochs``, ``seconds``,
    ``error``. Numbers keep all their digits; what is unknown is empty.
    """
    columns = ["trial", "status", *_names(trials), metric, "best_epoch", "epochs", "seconds", "error"]
    rows = [
        [
            *(trial.name, trial.status, *trial.parameters.values()),
            *(trial.best, trial.best_epoch, trial.epochs, trial.seconds, trial.error),
        ]
        for trial in trials
    ]
    # As objects: otherwise a missing value would turn a column of integers into fractions.
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def _names(trials: Sequence[Trial]) -> list[str]:
    return list(trials[0].parameters) if trials else []
