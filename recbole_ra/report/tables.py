"""Results as tables for a terminal or a log."""

from __future__ import annotations

import io
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table


def metrics_table(result: Mapping[str, Mapping[str, float]]) -> Table:
    """Make one row per ranking protocol, one column per metric, values with four decimals.

    Parameters
    ----------
    result : mapping of str to (mapping of str to float)
        Metrics by protocol, ``{"unmasked": {"recall@5": 0.0512, …}, "masked": {…}}``. ``unmasked``
        and ``masked`` come first, other protocols after them as given; a metric that a protocol
        lacks shows as a dash.
    """
    protocols = sorted(result, key=lambda name: {"unmasked": 0, "masked": 1}.get(name, 2))
    metrics = list(dict.fromkeys(metric for name in protocols for metric in result[name]))
    table = Table("protocol")
    for metric in metrics:
        table.add_column(metric, justify="right", overflow="fold")
    for name in protocols:
        values = result[name]
        table.add_row(name, *(f"{values[metric]:.4f}" if metric in values else "–" for metric in metrics))
    return table


def render(table: Table, width: int = 100) -> str:
    """Return a table as plain text, at most so many characters wide, without colours."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_terminal=False).print(table)
    return buffer.getvalue()
