"""Figures of a training run, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import contextlib
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from recbole_ra.core.errors import DataError, nearest
from recbole_ra.core.files import replacing

_LOSS, _METRIC, _GREY = "#3b6fb6", "#d1662b", "#5a5a5a"

TITLE = 10
"""Characters of a title for each inch of a figure's width."""

Epoch = Mapping[str, float | str]


@contextlib.contextmanager
def png_figure(path: Path, width: float, height: float, title: str = "") -> Iterator[Figure]:
    """Give a figure to draw on, its sides in inches, that becomes a PNG file if the block succeeds.

    The file appears complete or not at all, in an existing directory; an older one is replaced.
    """
    figure = Figure((width, height), dpi=150, layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    # A terminal of another encoding hands over names with lone surrogates, which no font takes.
    title = title.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    title = "\n".join(textwrap.fill(line, int(TITLE * width)) for line in title.split("\n"))
    figure.suptitle(title, fontsize=12, parse_math=False)
    yield figure
    with replacing(path) as temporary, temporary.open("wb") as file, warnings.catch_warnings():
        # A name may have characters that no font here has; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(file, format="png")


def learning_curve(
    history: Sequence[Epoch],
    path: Path,
    *,
    metric: str,
    best_epoch: int | Mapping[str, int] | None,
    title: str,
    besides: Sequence[str] | None = None,
) -> None:
    """Draw training loss (left axis) and validation metrics (right axis) over epochs as a PNG.

    Parameters
    ----------
    history : sequence of mappings
        One entry an epoch: ``loss``, the metric where it was computed, ``epoch`` (by default
        counted from 0 within the stage) and ``stage``; one panel a stage, in order of appearance.
        Entries that have a ``ridge``, λ, are drawn by it.
    path : Path
        As :func:`png_figure` takes it.
    metric : str
        Key of the validation metric, for example ``"ndcg@10"``.
    best_epoch : int or mapping of str to int, optional
        Epoch to mark; a plain number belongs to the last stage, a mapping names one for each.
    title : str
        Line above the panels.
    besides : sequence of str, optional
        Further metrics, drawn where they are known.

    Raises
    ------
    DataError
        If the history is empty or the metric is in none of its entries.
    """
    epochs = pd.DataFrame(history)
    if epochs.empty:
        raise DataError(f"{path}: no epoch to draw; the history is empty")
    if metric not in epochs:
        known = list(epochs)
        raise DataError(
            f"{path}: metric '{metric}' is in no epoch; there are {', '.join(known)}{nearest(metric, known)}"
        )
    shown = [metric, *(other for other in (besides or []) if other in epochs and other != metric)]
    epochs = epochs.reindex(columns=["stage", "epoch", "loss", "ridge", *shown]).fillna({"stage": ""})
    stages = epochs.groupby("stage", sort=False)
    epochs["epoch"] = epochs["epoch"].fillna(stages.cumcount())
    if not isinstance(best_epoch, Mapping):
        best_epoch = {} if best_epoch is None else {epochs["stage"].unique()[-1]: best_epoch}

    with png_figure(path, 6.4 * len(stages), 4.0, title) as figure:
        for panel, (stage, entries) in enumerate(stages, start=1):
            axes = figure.add_subplot(1, len(stages), panel)
            axes.set_title(stage, fontsize=10, color=_GREY)
            _draw_stage(axes, entries, shown, best_epoch.get(stage))


def _draw_stage(left: Axes, epochs: pd.DataFrame, metrics: Sequence[str], best: int | None) -> None:
    """The curves of one stage, and a mark at its best epoch by the first metric."""
    metric = metrics[0]
    right = left.twinx()
    marker = "o" if len(epochs) <= 40 else None
    lines: list[Line2D] = []
    curves = [(left, "loss", "training loss", _LOSS, "-")]
    for name, style in zip(metrics, ("-", "--", ":"), strict=False):
        curves.append((right, name, f"validation {name}", _METRIC, style))
    for axes, key, label, colour, style in curves:
        there = epochs.dropna(subset=[key]).sort_values("epoch")
        lines += axes.plot(
            there["epoch"], there[key], color=colour, ls=style, marker=marker, ms=3, label=label
        )
        if not axes.get_ylabel():
            axes.set_ylabel(label, color=colour)
        axes.tick_params(axis="y", colors=colour, length=0)
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.margins(y=0.1)
    what, place = "epoch", str(best)
    if epochs["ridge"].notna().all():
        ridges = [f"{ridge:g}" for ridge in epochs["ridge"]]
        what, place = "λ", dict(zip(epochs["epoch"], ridges, strict=True)).get(best, place)
        left.set_xticks(epochs["epoch"], ridges)
    else:
        left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left.set_xlabel(what)
    if epochs["epoch"].nunique() == 1:  # else the axis would be cut into hundredths of an epoch
        left.set_xlim(epochs["epoch"].iloc[0] - 1, epochs["epoch"].iloc[0] + 1)
    left.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    left.set_axisbelow(True)
    marked = epochs.loc[epochs["epoch"] == best, metric]
    if best is not None and len(marked):
        value = marked.iloc[0]
        right.axvline(best, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        label = f"best {what} {place}" + (f" ({value:.4f})" if np.isfinite(value) else "")
        lines += right.plot([best], [value], "o", color=_METRIC, mec="white", ms=9, label=label)
    below = (0.5, -0.16)
    left.legend(handles=lines, loc="upper center", bbox_to_anchor=below, ncols=2, fontsize=9, frameon=False)


def weight_curve(
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    chosen: Mapping[str, tuple[float, float, float]],
    path: Path,
    *,
    weight: str,
    label: str,
    metric: str,
    title: str,
) -> None:
    """Draw what validation says of each weight against the memories, as a PNG.

    Parameters
    ----------
    curves : mapping
        Protocol -> (weight, gain over the weight 1, its standard error).
    chosen : mapping
        Protocol -> what was chosen, as a point of the curves; it need not lie on them.
    path : Path
        As :func:`png_figure` takes it.
    weight : str
        Name of the setting.
    label : str
        What was chosen, in words.
    metric, title : str
    """
    with png_figure(path, 6.4, 4.0, title) as figure:
        axes = figure.add_subplot()
        for colour, (protocol, points) in zip((_LOSS, _METRIC), curves.items(), strict=False):
            at, gain, error = np.array(sorted(points)).T
            axes.errorbar(at, gain, error, color=colour, marker="o", ms=4, capsize=2, label=protocol)
            weighed, gain, error = chosen[protocol]
            axes.errorbar([weighed], [gain], [error], color=colour, marker="D", ms=8, mec="white", capsize=2)
        axes.axhline(0, color=_GREY, linewidth=1)
        axes.axvline(weighed, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), label=label)
        axes.set_xlabel(f"{weight} (1: without these memories)")
        axes.set_ylabel(f"gain of validation {metric}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)


def gains_by_group(
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path, *, metric: str, title: str
) -> None:
    """Draw the mean gain of each group of rows with its standard error, as a PNG.

    Parameters
    ----------
    groups : mapping
        What rows are grouped by -> group -> ``rows``, ``gain`` and ``error``, None where there is none.
    path : Path
        As :func:`png_figure` takes it.
    metric, title : str
    """
    with png_figure(path, 11.0, 2.2 + 0.35 * max(map(len, groups.values())) * 2, title) as figure:
        for place, (name, parts) in enumerate(groups.items(), start=1):
            axes = figure.add_subplot(-(-len(groups) // 2), 2, place)
            labels = [f"{group} ({int(part['rows']):,})" for group, part in parts.items()]
            gain, error = (
                [part["gain"] for part in parts.values()],
                [np.nan if part["error"] is None else part["error"] for part in parts.values()],
            )
            axes.barh(labels, gain, xerr=error, color=_LOSS, height=0.6, ecolor=_GREY)
            axes.axvline(0, color=_GREY, linewidth=1)
            axes.invert_yaxis()
            axes.set_title(name, fontsize=10, loc="left")
            axes.set_xlabel(f"gain of test {metric}")
            axes.spines[["top", "right"]].set_visible(False)
