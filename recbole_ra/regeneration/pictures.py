"""A regenerated data set in a table and in a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from recbole_ra.regeneration.statistics import Numbers, RegenerationStatistics
from recbole_ra.report.plots import png_figure

COLOURS = {"original": "#5a5a5a", "pattern": "#3b6fb6", "regenerated": "#d1662b"}
_LIGHT, _GRID = "#e3a887", "#e6e6e6"
_LONGEST = 50
_COLUMNS = (
    "rows", "dropped", "mean length", "items", "pairs", "new pairs", "new by count", "copies", "foreign",
)  # fmt: skip


def statistics_table(statistics: RegenerationStatistics) -> Table:
    """Make one row per origin, and one per latent space below the regenerated rows.

    Columns: rows; rows dropped as equal to an earlier one; items a row; share of the vocabulary that
    occurs; distinct pairs of adjacent items; share of them that no original row has, distinct and by
    count; share of the decoded rows that equal another row; share of decoded items that their source
    lacks. What is unknown shows as a dash.
    """
    table = Table()
    table.add_column("origin", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", overflow="fold")
    for name, numbers in statistics.origins.items():
        table.add_row(name, *_cells(numbers, statistics.decoded if name == "regenerated" else None))
    for space, numbers in statistics.latents.items():
        table.add_row(f"  space {space}", *_cells(numbers, statistics.decoded_by_latent.get(space)))
    return table


def _cells(rows: Numbers, decoded: Numbers | None) -> list[str]:
    decoded = decoded or {"copies": None, "foreign_items": None}
    shares = rows["new_transitions"], rows["new_occurrences"], decoded["copies"], decoded["foreign_items"]
    return [
        str(rows["rows"]),
        "–" if rows["dropped"] is None else str(rows["dropped"]),
        f"{rows['interactions'] / max(rows['rows'], 1):.2f}",
        f"{rows['coverage']:.1%}",
        str(rows["transitions"]),
        *("–" if share is None else f"{share:.1%}" for share in shares),
    ]


def statistics_plot(statistics: RegenerationStatistics, path: Path) -> None:
    """Draw rows, lengths, coverage and novelty as a PNG (:func:`png_figure`) with four panels."""
    origins = statistics.origins
    coverage = {name: 100 * rows["coverage"] for name, rows in origins.items()}
    novel = {name: rows for name, rows in origins.items() if name != "original"}
    novel |= {f"space {space}": rows for space, rows in statistics.latents.items()}
    with png_figure(path, 11.0, 7.0) as figure:
        panels = figure.subplots(2, 2).reshape(-1)
        _bars(panels[0], "rows", {name: rows["rows"] for name, rows in origins.items()}, "{:,.0f}")
        _lengths(panels[1], origins)
        _bars(panels[2], f"items that occur, % of {statistics.n_items:,}", coverage, "{:.1f}")
        _novelty(panels[3], novel)
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)


def _bars(axes: Axes, title: str, values: Mapping[str, float], text: str) -> None:
    """Draw one bar per origin, with its value above it."""
    colours = [COLOURS[name] for name in values]
    bars = axes.bar(list(values), list(values.values()), color=colours, width=0.6)
    axes.bar_label(bars, labels=[text.format(value) for value in values.values()], padding=2)
    axes.margins(y=0.12)
    axes.set_title(title, fontsize=10, loc="left")


def _lengths(axes: Axes, origins: Mapping[str, Numbers]) -> None:
    """Rows of each length; longer ones are counted in the last place."""
    for name, rows in origins.items():
        lengths = np.minimum([int(length) for length in rows["lengths"]], _LONGEST)
        count = np.bincount(lengths, list(rows["lengths"].values()))
        there = np.flatnonzero(count)
        axes.plot(there, count[there], "o-", color=COLOURS[name], ms=3, lw=1, label=name)
    axes.set_yscale("log")
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_title(f"rows of each length ({_LONGEST}: and longer)", fontsize=10, loc="left")
    axes.set_xlabel("items")
    if origins:
        axes.legend(frameon=False)


def _novelty(axes: Axes, subsets: Mapping[str, Numbers]) -> None:
    """Two bars a set of rows: new pairs among the distinct ones, and by count."""
    place = np.arange(len(subsets))
    distinct = [100 * rows["new_transitions"] for rows in subsets.values()]
    by_count = [100 * rows["new_occurrences"] for rows in subsets.values()]
    axes.barh(place - 0.2, distinct, height=0.38, color=COLOURS["regenerated"], label="distinct")
    axes.barh(place + 0.2, by_count, height=0.38, color=_LIGHT, label="by count")
    axes.set_yticks(place, list(subsets))
    axes.invert_yaxis()
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_title("pairs of adjacent items that no original row has, %", fontsize=10, loc="left")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
