"""Where the values of a parameter lie on an axis, and which of them are written at it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from recbole_ra.report.sweep import Trial, parameter_names, value_text

MOST_TICKS = 12
_LOG_FACTOR = 30
_MOST_CATEGORIES = 6
_LONGEST_LABEL = 24
_WIDEST_LABELS = 42

Key = tuple[bool, float, str]
"""Identity and order of a value: numbers by size, then everything else by its text."""


@dataclass(frozen=True)
class Scale:
    """How values lie on an axis: as they are, by their logarithm, or evenly spaced.

    Parameters
    ----------
    ticks : sequence of (float, str)
        Places that have a label, and the label.
    low, high : float
        Places of the lowest and the highest value.
    log : bool
        Whether a place is the decimal logarithm of the value.
    order : mapping of Key to int, optional
        Places of values that are evenly spaced.
    """

    ticks: Sequence[tuple[float, str]]
    low: float
    high: float
    log: bool = False
    order: Mapping[Key, int] | None = None

    def place(self, value: Any) -> float:
        """Where a value lies, in the unit of the axis."""
        if self.order is not None:
            return float(self.order[key_of(value)])
        return math.log10(value) if self.log else float(value)

    def share(self, place: float) -> float:
        """A place as a share of the axis: 0 at the lowest value, 1 at the highest, 0.5 if they are equal."""
        return (place - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def height(self, value: Any) -> float:
        """Where a value lies as a share of the axis."""
        return self.share(self.place(value))

    def label(self, axes: Axes) -> None:
        """Set limits and ticks of a small panel's horizontal axis; labels without room are slanted."""
        margin = 0.06 * (self.high - self.low) if self.order is None else 0.5
        axes.set_xlim(self.low - margin, self.high + margin)
        slanted = sum(len(text) + 2 for _, text in self.ticks) > _WIDEST_LABELS
        style: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        places, texts = zip(*self.ticks, strict=True)
        axes.set_xticks(places, texts, fontsize=8, **style)


def scale_of(values: Sequence[Any]) -> Scale:
    """Even spaces for text, switches and up to six different values; otherwise a numeric axis.

    Positive values that span more than a factor of 30 are on a logarithmic one.
    """
    texts = distinct(values)
    if len(texts) > _MOST_CATEGORIES and not any(is_text for is_text, *_ in texts):
        return numeric_scale(values, log=min(values) > 0 and max(values) > _LOG_FACTOR * min(values))
    ticks = [(float(place), text) for place, text in enumerate(texts.values())]
    some = ticks[:: -(-len(ticks) // MOST_TICKS)]
    return Scale(some, 0.0, len(texts) - 1.0, order={key: place for place, key in enumerate(texts)})


def numeric_scale(values: Sequence[float], *, log: bool = False) -> Scale:
    """A linear or logarithmic axis from the lowest to the highest value, with round numbers at it.

    Parameters
    ----------
    values : sequence of float
        At least one; positive if ``log``. An axis of integers has integers at it.
    log : bool
    """
    low, high = min(values), max(values)
    whole = all(isinstance(value, Integral) for value in values)
    locator: Locator = MaxNLocator(5, integer=whole)
    if log:
        locator = LogLocator(subs=(1.0,) if high > 1000 * low else (1.0, 3.0))
    found = [float(tick) for tick in locator.tick_values(low, high)] if high > low else [float(low)]
    bare = Scale([], math.log10(low) if log else low, math.log10(high) if log else high, log)
    ticks = [(bare.place(tick), value_text(round(tick) if whole else tick)) for tick in found]
    # The tolerance keeps a tick at an end that rounding has moved off the axis.
    inside = [(place, text) for place, text in ticks if -1e-9 <= bare.share(place) <= 1 + 1e-9]
    return Scale(inside, bare.low, bare.high, log)


def shown_scales(trials: Sequence[Trial]) -> dict[str, Scale]:
    """Scales of the parameters that are worth a picture: those that vary, or all if none does."""
    names = list(varying(trials)) or parameter_names(trials)
    return {name: scale_of(_values(trials, name)) for name in names}


def varying(trials: Sequence[Trial]) -> dict[str, dict[Key, str]]:
    """Parameters with at least two values, each with its different values as in :func:`distinct`."""
    every = {name: distinct(_values(trials, name)) for name in parameter_names(trials)}
    return {name: texts for name, texts in every.items() if len(texts) > 1}


def cell_of(trial: Trial, varied: Mapping[str, Mapping[Key, str]]) -> tuple[int, int]:
    """Row and column of a trial in the grid of two parameters as :func:`varying` orders them."""
    row, column = (list(texts).index(key_of(trial.parameters[name])) for name, texts in varied.items())
    return row, column


def _values(trials: Sequence[Trial], name: str) -> list[Any]:
    return [trial.parameters[name] for trial in trials if name in trial.parameters]


def key_of(value: Any) -> Key:
    """What two values share if they are the same; 1 and 1.0 are, 1 and True are not."""
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return False, float(value), ""
    return True, 0.0, str(value)


def distinct(values: Iterable[Any]) -> dict[Key, str]:
    """The different values in order, each with a text that fits at an axis."""
    found = {key_of(value): _short(value_text(value)) for value in values}
    return {key: found[key] for key in sorted(found)}


def _short(text: str) -> str:
    """Leave out the middle of a long text, for the texts of one parameter tend to begin alike."""
    half = _LONGEST_LABEL // 2
    fits = text if len(text) <= _LONGEST_LABEL else f"{text[:half]}…{text[1 - half :]}"
    return fits.replace("$", r"\$")  # else a pair of them would enclose a formula
