"""The trials of a hyper-parameter sweep as records, as a table and as CSV."""

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

_STATUSES = ("waiting", "running", "finished", "stopped", "failed")
_ERROR_WIDTH = 40
_NAME_WIDTH = 12
_ABSENT = "–"


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Parameters
    ----------
    name : str
        For example ``"t0003"``.
    parameters : mapping of str to Any
        The settings that the sweep chose for it; not every trial needs to have the same ones.
    status : str
        ``waiting``, ``running``, ``finished``, ``stopped`` (given up early) or ``failed``.
    best : float, optional
        Best validation value so far.
    best_epoch : int, optional
        Epoch of that value.
    epochs : int
        Epochs trained so far.
    seconds : float
        Time spent so far, in seconds.
    error : str
        Why it failed, one line.
    """

    name: str
    parameters: Mapping[str, Any]
    status: str
    best: float | None = None
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def value(self) -> float:
        """The best value, or NaN if it does not count: unknown, not finite, or of a failed trial."""
        if self.best is None or self.status == "failed" or not math.isfinite(self.best):
            return math.nan
        return self.best

    @property
    def counts(self) -> bool:
        """Whether the trial has a value that can be compared."""
        return not math.isnan(self.value)


def best_trial(trials: Sequence[Trial], *, bigger: bool) -> Trial | None:
    """Return the trial with the best value, the earlier one of two equals; None if none has a value.

    Parameters
    ----------
    trials : sequence of Trial
        Failed ones do not count, whatever they reached.
    bigger : bool
        Whether a bigger value is better.
    """
    return next(iter(best_first(trials, bigger=bigger)), None)


def best_first(trials: Sequence[Trial], *, bigger: bool) -> list[Trial]:
    """Trials whose value counts, the best one first and equals in the order given."""
    sign = -1 if bigger else 1
    return sorted((trial for trial in trials if trial.counts), key=lambda trial: sign * trial.value)


def parameter_names(trials: Sequence[Trial]) -> list[str]:
    """Names of all parameters, in order of first appearance."""
    return list(dict.fromkeys(name for trial in trials for name in trial.parameters))


def value_text(value: Any) -> str:
    """A parameter's value as people read it: numbers with a fraction in four digits."""
    is_fraction = isinstance(value, Real) and not isinstance(value, Integral)
    return f"{value:.4g}" if is_fraction else str(value)


def name_text(name: str) -> str:
    """A parameter's name over as many lines as a narrow column needs, broken after underscores."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), _NAME_WIDTH)).replace(" ", "")


def picture_notes(trials: Sequence[Trial], *, bigger: bool) -> str:
    """Second line of a title: which way is better, unless it is up, and which trials are not shown."""
    failed = sum(trial.status == "failed" for trial in trials)
    empty = sum(not trial.counts for trial in trials) - failed
    hidden = [f"{count} {what}" for count, what in ((failed, "failed"), (empty, "without a value")) if count]
    notes = ([] if bigger else ["smaller is better"]) + ([f"left out: {', '.join(hidden)}"] if hidden else [])
    return "\n" + "; ".join(notes) if notes else ""


def trials_table(trials: Sequence[Trial], metric: str, *, bigger: bool, limit: int | None = None) -> Table:
    """One row a trial, best first and in bold, then those whose value does not count.

    Columns: trial, status, each parameter, the metric, ``epoch of the best/epochs trained``, seconds,
    and the error if a trial has one. The caption counts the trials by status. What is unknown shows as
    a dash.

    Parameters
    ----------
    trials : sequence of Trial
    metric : str
        Name of the value, for example ``"ndcg@10"``.
    bigger : bool
        Whether a bigger value is better.
    limit : int, optional
        Most rows; the last line of the caption then says how many trials are not shown.
    """
    ranked = best_first(trials, bigger=bigger)
    rows = ranked + [trial for trial in trials if not trial.counts]
    names = parameter_names(trials)
    with_errors = any(trial.error for trial in trials)

    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_caption(rows, limit), caption_justify="left"
    )
    # Where the terminal is narrow, errors and text give way first, numbers last.
    table.add_column("trial", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in names:
        numeric = all(isinstance(trial.parameters.get(name, 0), Real) for trial in trials)
        table.add_column(
            Text(name_text(name)), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
        )
    table.add_column(Text(metric), justify="right", no_wrap=True)
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    if with_errors:
        table.add_column("error", max_width=_ERROR_WIDTH)
    for trial in rows[:limit]:
        chosen = trial.parameters
        cells = [
            trial.name,
            trial.status,
            *(value_text(chosen[name]) if name in chosen else _ABSENT for name in names),
            _ABSENT if trial.best is None else f"{trial.best:.4f}",
            f"{_ABSENT if trial.best_epoch is None else trial.best_epoch}/{trial.epochs}",
            f"{trial.seconds:.1f}",
        ]
        error = [Text(trial.error, no_wrap=True, overflow="ellipsis")] if with_errors else []
        # Text and not str: a value such as [a, b] would be read as markup.
        table.add_row(*map(Text, cells), *error, style="bold" if trial in ranked[:1] else None)
    return table


def _caption(rows: Sequence[Trial], limit: int | None) -> Text:
    """Counts by status, and below them how many rows the limit leaves out."""
    counts = Counter(trial.status for trial in rows)
    by_status = ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])
    hidden = len(rows) - len(rows[:limit])
    lines = [f"{len(rows)} trial{'s' if len(rows) != 1 else ''}: {by_status}" if rows else "no trials"]
    return Text("\n".join(lines + ([f"{hidden} more not shown"] if hidden else [])))


def write_trials(trials: Sequence[Trial], path: Path, metric: str) -> None:
    """Write the trials as CSV, one line each, in the order given; whole or not at all.

    Columns: ``trial``, ``status``, the parameters in order of first appearance, the metric,
    ``best_epoch``, ``epochs``, ``seconds``, ``error``. Numbers keep all their digits. What a trial
    lacks is empty.

    Parameters
    ----------
    trials : sequence of Trial
    path : Path
        Target in an existing directory; replaced if it exists.
    metric : str
        Name of the column of best values.
    """
    names = parameter_names(trials)
    columns = ["trial", "status", *names, metric, "best_epoch", "epochs", "seconds", "error"]
    rows = [
        [
            *(trial.name, trial.status),
            *(trial.parameters.get(name) for name in names),
            *(trial.best, trial.best_epoch, trial.epochs, trial.seconds, trial.error),
        ]
        for trial in trials
    ]
    # As objects: otherwise a missing value would turn a column of integers into fractions.
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
