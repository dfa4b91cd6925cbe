"""Pictures of a hyper-parameter sweep, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import explain_disk_errors, replacing
from recbole_ra.report.scales import MOST_TICKS, Scale, cell_of, numeric_scale, shown_scales, varying
from recbole_ra.report.sweep import Trial, best_first, best_trial, name_text, picture_notes

_BLUE, _ORANGE, _GREY, _GRID = "#3b6fb6", "#d1662b", "#5a5a5a", "#e6e6e6"
_FILL = {"finished": _BLUE, "stopped": "#a8a8a8"}
_DPI = 150
_PANELS_A_ROW = 4
_MOST_CELLS = 12


def best_so_far_plot(trials: Sequence[Trial], path: Path, metric: str, *, bigger: bool) -> None:
    """Draw each trial's best value in the order of trials, and the best one so far as a step line.

    Stopped trials are grey, running ones hollow, failed ones crosses at the bottom.

    Parameters
    ----------
    trials : sequence of Trial
    path : Path
        Target in an existing directory; appears complete or not at all.
    metric : str
        Name of the value, for example ``"ndcg@10"``.
    bigger : bool
        Whether a bigger value is better.

    Raises
    ------
    DataError
        If no trial has a value.
    """
    best = _best(trials, path, metric, bigger=bigger)
    figure = _figure(min(14.0, 7.5 + 0.05 * len(trials)), 4.0, f"best {metric} of each trial")
    axes = figure.add_subplot()
    valued = [(float(place), trial) for place, trial in enumerate(trials) if trial.counts]
    so_far = (np.maximum if bigger else np.minimum).accumulate([trial.value for _, trial in valued])
    end = len(trials) - 0.5
    steps = [*(place for place, _ in valued), end]
    axes.plot(steps, [*so_far, so_far[-1]], drawstyle="steps-post", color=_ORANGE, label="best so far")
    _dots(axes, valued, best)
    failed = [place for place, trial in enumerate(trials) if trial.status == "failed"]
    if failed:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0.04] * len(failed), "x", color=_GREY, transform=bottom, label="failed")
    axes.set_xlim(-0.5, end)
    some = range(0, len(trials), -(-len(trials) // MOST_TICKS))
    axes.set_xticks(some, [trials[place].name for place in some], fontsize=9)
    axes.set_ylabel(metric)
    _legend(figure, [axes])
    _save(figure, path)


def parameters_plot(trials: Sequence[Trial], path: Path, metric: str, *, bigger: bool) -> None:
    """Draw the metric against each parameter that varies, one panel each.

    If none varies, all have a panel. Positive values that span more than a factor of 30 are on a
    logarithmic axis; text, switches and up to six different values are evenly spaced.

    Parameters
    ----------
    trials, path, metric, bigger
        As for :func:`best_so_far_plot`.

    Raises
    ------
    DataError
        If no trial has a value, or none a parameter.
    """
    best = _best(trials, path, metric, bigger=bigger)
    scales = _scales(trials, path)
    columns = min(len(scales), _PANELS_A_ROW)
    rows = -(-len(scales) // columns)
    size = (max(4.5, 0.8 + 2.9 * columns), 1.1 + 2.7 * rows)
    figure = _figure(*size, f"{metric} by parameter{picture_notes(trials, bigger=bigger)}")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).reshape(-1)
    panels: list[Axes] = list(grid[: len(scales)])
    for axes, (name, scale) in zip(panels, scales.items(), strict=True):
        there = [trial for trial in trials if name in trial.parameters and trial.counts]
        _dots(axes, [(scale.place(trial.parameters[name]), trial) for trial in there], best)
        scale.label(axes)
        axes.set_xlabel(name)
    for axes in grid[len(scales) :]:
        axes.remove()
    for axes in panels[::columns]:
        axes.set_ylabel(metric)
    _legend(figure, panels)
    _save(figure, path)


def parallel_plot(trials: Sequence[Trial], path: Path, metric: str, *, bigger: bool) -> None:
    """Draw each trial as a line through one vertical axis a parameter, up to the metric's axis.

    Parameters are chosen and scaled as in :func:`parameters_plot`. Better trials are darker and lie
    above the others; the best one is thicker. A line has a gap where its trial lacks a parameter.

    Parameters
    ----------
    trials, path, metric, bigger
        As for :func:`best_so_far_plot`.

    Raises
    ------
    DataError
        If no trial has a value, or none a parameter.
    """
    best = _best(trials, path, metric, bigger=bigger)
    scales = _scales(trials, path)
    ranked = best_first(trials, bigger=bigger)
    last = numeric_scale([trial.value for trial in ranked])
    end, colours = len(scales), _colours(bigger=bigger)
    title = f"best {metric}: {best.name} ({best.value:.4f}){picture_notes(trials, bigger=bigger)}"
    figure = _figure(1.6 + 1.7 * end, 4.6, title)
    axes = figure.add_subplot()
    for trial in reversed(ranked):
        chosen, height = trial.parameters, last.height(trial.value)
        heights = [scale.height(chosen[name]) if name in chosen else np.nan for name, scale in scales.items()]
        width = 4.0 if trial is best else 1.5
        axes.plot([*heights, height], color=colours(height), lw=width, solid_capstyle="round")
    gradient = np.linspace(0, 1, 256)[:, None]
    axes.imshow(gradient, colours, extent=(end, end + 0.06, 0, 1), origin="lower", aspect="auto", zorder=3)
    axes.vlines(range(end + 1), 0, 1, color=_GREY, lw=1, zorder=3)
    plate = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for number, scale in enumerate([*scales.values(), last]):
        where, side = (number - 0.04, "right") if number < end else (end + 0.1, "left")
        for place, text in scale.ticks:
            height = scale.share(place)
            axes.text(where, height, text, ha=side, va="center", fontsize=8, bbox=plate, zorder=4)
    axes.set(xlim=(-0.5, end + 0.4), ylim=(-0.04, 1.04), yticks=[])
    axes.set_xticks(range(end + 1), [*map(name_text, scales), metric])
    _bare(axes)
    _save(figure, path)


def heat_map(trials: Sequence[Trial], path: Path, metric: str, *, bigger: bool) -> None:
    """Draw the best value of each combination of the two parameters that vary.

    Rows are the first one's values, columns the second one's; the best cell is framed, and a
    combination without a value is hatched.

    Parameters
    ----------
    trials, path, metric, bigger
        As for :func:`best_so_far_plot`.

    Raises
    ------
    DataError
        If not exactly two parameters have two values or more, or no trial has both and a result.
    """
    varied = varying(trials)
    if len(varied) != 2:
        found = f"{len(varied)} have ({', '.join(varied)})" if varied else "none has"
        raise DataError(f"{path}: a heat map needs two parameters with at least two values each; {found}")
    complete = [trial for trial in trials if varied.keys() <= trial.parameters.keys()]
    best = _best(complete, path, metric, bigger=bigger)
    (_, rows), (_, columns) = varied.items()
    cells = np.full((len(rows), len(columns)), np.nan)
    for trial in reversed(best_first(complete, bigger=bigger)):
        cells[cell_of(trial, varied)] = trial.value

    values = {(int(i), int(j)): float(cells[i, j]) for i, j in np.argwhere(np.isfinite(cells))}
    letters = max(7, *(len(f"{value:.4f}") for value in values.values()), *map(len, columns.values()))
    margin = 2.4 + 0.08 * max(map(len, rows.values()))
    size = (max(4.5, margin + 0.1 * letters * len(columns)), 1.7 + 0.45 * len(rows))
    figure = _figure(*size, f"best {metric}{picture_notes(trials, bigger=bigger)}")
    axes = figure.add_subplot()
    axes.patch.set(facecolor="#f2f2f2", edgecolor="#bdbdbd", hatch="////")
    image = axes.imshow(cells, _colours(bigger=bigger), aspect="auto")
    figure.colorbar(image, ax=axes, label=metric)
    scale = numeric_scale(list(values.values()))
    for (i, j), value in values.items():
        ink = "white" if (scale.height(value) > 0.5) == bigger else "black"
        axes.text(j, i, f"{value:.4f}", ha="center", va="center", color=ink, fontsize=9)
    i, j = cell_of(best, varied)
    axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec=_ORANGE, lw=3, clip_on=False))
    for axis, (name, texts) in zip((axes.yaxis, axes.xaxis), varied.items(), strict=True):
        axis.set_ticks(range(len(texts)), list(texts.values()))
        axis.set_label_text(name)
    _bare(axes)
    _save(figure, path)


def sweep_plots(trials: Sequence[Trial], folder: Path, metric: str, *, bigger: bool) -> list[Path]:
    """Draw whatever the trials have enough of, and return the files.

    ``best_so_far.png`` always, ``parameters.png`` with a parameter, ``parallel.png`` with two, and
    ``heat_map.png`` if exactly two vary, over at most 12 x 12 cells. Nothing if no trial has a value.

    Parameters
    ----------
    trials : sequence of Trial
    folder : Path
        Made if it is missing.
    metric : str
        Name of the value, for example ``"ndcg@10"``.
    bigger : bool
        Whether a bigger value is better.
    """
    if best_trial(trials, bigger=bigger) is None:
        return []
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    shown, varied = shown_scales(trials), varying(trials)
    drawings = {"best_so_far": best_so_far_plot}
    if shown:
        drawings["parameters"] = parameters_plot
    if len(shown) >= 2:
        drawings["parallel"] = parallel_plot
    filled = any(trial.counts and varied.keys() <= trial.parameters.keys() for trial in trials)
    if len(varied) == 2 and filled and all(len(texts) <= _MOST_CELLS for texts in varied.values()):
        drawings["heat_map"] = heat_map
    paths = {folder / f"{name}.png": draw for name, draw in drawings.items()}
    for path, draw in paths.items():
        draw(trials, path, metric, bigger=bigger)
    return list(paths)


def _scales(trials: Sequence[Trial], path: Path) -> dict[str, Scale]:
    scales = shown_scales(trials)
    if not scales:
        raise DataError(f"{path}: no trial has a parameter to draw; sweep at least one")
    return scales


def _best(trials: Sequence[Trial], path: Path, metric: str, *, bigger: bool) -> Trial:
    best = best_trial(trials, bigger=bigger)
    if best is None:
        raise DataError(f"{path}: no trial has a value of '{metric}' to draw; see the errors of the trials")
    return best


def _dots(axes: Axes, placed: Sequence[tuple[float, Trial]], best: Trial) -> None:
    """One dot a trial, coloured by status, and a ring around the best one."""
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    for status in dict.fromkeys(trial.status for _, trial in placed):
        dots = [(place, trial.value) for place, trial in placed if trial.status == status]
        fill = _FILL.get(status, "white")
        edge = _BLUE if fill == "white" else "white"
        axes.plot(*zip(*dots, strict=True), "o", ms=6, mfc=fill, mec=edge, label=status)
    for place, trial in placed:
        if trial is best:
            label = f"best: {trial.name} ({trial.value:.4f})"
            axes.plot([place], [trial.value], "o", ms=11, mfc="none", mec=_ORANGE, mew=2, label=label)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend below all panels, each label once."""
    pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels]
    entries = {label: handle for panel in pairs for handle, label in panel}
    style: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    figure.legend(list(entries.values()), list(entries), ncols=6 if figure.get_figwidth() > 7 else 3, **style)


def _colours(*, bigger: bool) -> Colormap:
    """Darker is better; without the palest shades, in which a line would be lost."""
    shades = colormaps["Blues"](np.linspace(0.25, 1.0, 256))
    colours = LinearSegmentedColormap.from_list("sweep", shades)
    return colours if bigger else colours.reversed()


def _bare(axes: Axes) -> None:
    """Leave labels at the axes, but neither lines nor ticks."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure((width, height), _DPI, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    FigureCanvasAgg(figure)  # attaches itself: savefig then draws without a display
    figure.suptitle(title, fontsize=11)
    return figure


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png")
