"""Results as tables for a terminal or a log."""

from __future__ import annotations

import io
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

WIDTH = 100
"""Characters of a line."""

LABEL, PADDING = 30, 3
"""Of it for the first column, and around each cell, with its line."""


def metrics_table(result: Mapping[str, Mapping[str, float]]) -> Table:
    """Make one row per ranking protocol, one column per metric, values with four decimals.

    The other way round where the columns would be too narrow for the metrics' names.

    Parameters
    ----------
    result : mapping of str to (mapping of str to float)
        Metrics by protocol, ``{"unmasked": {"recall@5": 0.0512, …}, "masked": {…}}``. ``unmasked``
        and ``masked`` come first, other protocols after them as given; a metric that a protocol
        lacks shows as a dash.
    """
    protocols = sorted(result, key=lambda name: {"unmasked": 0, "masked": 1}.get(name, 2))
    metrics = list(dict.fromkeys(metric for name in protocols for metric in result[name]))
    is_wide = sum(len(metric) + PADDING for metric in metrics) > WIDTH - LABEL
    columns, lines = (protocols, metrics) if is_wide else (metrics, protocols)
    table = Table("metric" if is_wide else "protocol")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for line in lines:
        found = (result[name].get(line) if is_wide else result[line].get(name) for name in columns)
        table.add_row(line, *("–" if value is None else f"{value:.4f}" for value in found))
    return table


def render(table: Table, width: int = WIDTH) -> str:
    """Return a table as plain text, at most so many characters wide, without colours.

    Cells are shown as they are: brackets and colons of tokens and titles mean nothing.
    """
    buffer = io.StringIO()
    Console(
        file=buffer,
        width=width,
        color_system=None,
        force_terminal=False,
        markup=False,
        emoji=False,
        highlight=False,
    ).print(table)
    return buffer.getvalue()
