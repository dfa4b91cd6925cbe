"""Pictures of a sweep, most of them Optuna's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from optuna.visualization import matplotlib as optuna_plots

from recbole_ra.core.files import replacing
from recbole_ra.tuning.table import Trial, best_trial

LOG_FACTOR = 30  # values that span more are drawn on a logarithmic axis
MOST_CELLS = 12
PICTURES = ("best_so_far", "parameters", "parallel", "heat_map")
ORANGE = "#d1662b"


def draw_sweep(trials: Sequence[Trial], folder: Path, metric: str, *, bigger: bool) -> list[Path]:
    """Draw the trials that have a value, and return the files; each appears whole or not at all.

    ``best_so_far.png`` always, ``parameters.png`` with a parameter, ``parallel.png`` with two (those
    that vary, or all if none does), and ``heat_map.png`` if exactly two vary, over at most 12 x 12
    cells. Nothing if no trial has a value.

    Parameters
    ----------
    metric : str
        Name of the value, for example ``"ndcg@10"``.
    bigger : bool
        Whether a bigger value is better.
    """
    best = best_trial(trials, bigger=bigger)
    if best is None:
        return []
    title = f"best {metric}: {best.name} ({best.best:.4f}){'' if bigger else ', smaller is better'}"
    hidden = sum(not trial.counts for trial in trials)
    if hidden:
        title += f"\n{hidden} without a value left out"
    paths = []
    plt.switch_backend("Agg")  # Optuna draws with pyplot, which must not open a window
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its plots are experimental, and that an axis has one value
        try:
            for name in _figures(trials, best, metric, bigger=bigger):
                for axes in plt.gcf().axes:
                    axes.set_title("")
                plt.suptitle(title, fontsize=11)
                paths.append(folder / f"{name}.png")
                with replacing(paths[-1]) as temporary:
                    plt.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
        finally:
            plt.close("all")
    for name in {*PICTURES} - {path.stem for path in paths}:  # of fewer trials, before --resume
        (folder / f"{name}.png").unlink(missing_ok=True)
    return paths


def _figures(trials: Sequence[Trial], best: Trial, metric: str, *, bigger: bool) -> Iterator[str]:
    """Draw one picture after the other as pyplot's current figure, and give its name."""
    drawn = {place: trial for place, trial in enumerate(trials) if trial.counts}
    frame = pd.DataFrame([{**trial.parameters, metric: trial.best} for trial in drawn.values()], list(drawn))
    names = [str(name) for name in frame.columns[:-1]]
    for name in names:
        values = [trial.parameters[name] for trial in drawn.values()]
        if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
            frame[name] = [str(value).replace("$", r"\$") for value in values]
    varied = [name for name in names if frame[name].nunique() > 1]
    shown = varied or names
    study = _study(frame, len(trials), bigger=bigger)
    place = trials.index(best)

    _mark(optuna_plots.plot_optimization_history(study, target_name=metric), place, best)
    plt.legend()
    yield "best_so_far"
    if shown:
        optuna_plots.plot_slice(study, shown, target_name=metric)
        for axes in plt.gcf().axes[: len(shown)]:
            value = frame.loc[place, axes.get_xlabel()]
            _mark(axes, repr(value) if isinstance(value, str) else value, best)
            axes.tick_params(axis="x", rotation=30)
        yield "parameters"
    if len(shown) > 1:
        optuna_plots.plot_parallel_coordinate(study, shown, target_name=metric)
        plt.gcf().set_figwidth(4 + 1.7 * len(shown))
        for axes in plt.gcf().axes:
            axes.grid(visible=False)
        yield "parallel"
    if len(varied) == 2 and frame[varied].nunique().max() <= MOST_CELLS:
        _heat_map(frame, varied, metric, bigger=bigger)
        yield "heat_map"


def _study(frame: pd.DataFrame, n_trials: int, *, bigger: bool) -> optuna.Study:
    """Make Optuna's study; trials that are not in the frame are failed ones, so that numbers are kept."""
    distributions: dict[str, BaseDistribution] = {}
    for name in frame.columns[:-1]:
        low, high = frame[name].min(), frame[name].max()
        if isinstance(low, str):
            distributions[name] = CategoricalDistribution(sorted(set(frame[name])))
        else:
            distributions[name] = FloatDistribution(low, high, log=0 < LOG_FACTOR * low < high)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if bigger else "minimize")
    for place in range(n_trials):
        if place in frame.index:
            *params, value = frame.loc[place]
            chosen = dict(zip(distributions, params, strict=True))
            study.add_trial(create_trial(value=value, params=chosen, distributions=distributions))
        else:
            study.add_trial(create_trial(state=TrialState.FAIL))
    return study


def _mark(axes: Axes, x: Any, best: Trial) -> None:
    axes.plot([x], [best.best], "o", ms=12, mfc="none", mec=ORANGE, mew=2, label="best", clip_on=False)


def _heat_map(frame: pd.DataFrame, names: Sequence[str], metric: str, *, bigger: bool) -> None:
    """Draw the best value of each combination of two parameters; the best cell is framed."""
    cells = frame.pivot_table(metric, *names, aggfunc="max" if bigger else "min")
    best = (np.nanargmax if bigger else np.nanargmin)(cells)
    figure, axes = plt.subplots(figsize=(3 + 0.8 * cells.shape[1], 2 + 0.45 * cells.shape[0]))
    axes.grid(visible=False)
    figure.colorbar(axes.imshow(cells, "Blues" if bigger else "Blues_r", aspect="auto"), label=metric)
    axes.set(ylabel=names[0], xlabel=names[1])
    axes.set_yticks(range(cells.shape[0]), map(str, cells.index))
    axes.set_xticks(range(cells.shape[1]), map(str, cells.columns), rotation=30)
    for place, ((i, j), value) in enumerate(np.ndenumerate(cells)):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.4f}", ha="center", va="center", bbox={"fc": "white", "ec": "none"})
        if place == best:
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec=ORANGE, lw=3, clip_on=False))
