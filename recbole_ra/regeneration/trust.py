"""Which training rows a personalised backbone trusts: weights by origin, and the patterns at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from recbole_ra.core.files import write_bytes
from recbole_ra.data.table import Origin, Prefixes
from recbole_ra.regeneration.pictures import COLOURS
from recbole_ra.report.plots import png_figure
from recbole_ra.report.tables import render
from recbole_ra.training.run import Trust

SHOWN = 10
"""Patterns at each end."""


def trust_facts(rows: Prefixes, trust: Trust, vocabulary: Sequence[str]) -> dict[str, Any]:
    """Summarise the weights of training targets.

    Parameters
    ----------
    rows : Prefixes
        The training rows.
    trust : Trust
    vocabulary : sequence of str
        Token of each item id.

    Returns
    -------
    dict
        ``moves``: steps in which the weights were learned (:class:`~recbole_ra.training.run.Trust`).
        ``origins``: origin -> targets, mean weight and its deciles. ``most`` and ``least``: rows that are
        weighed and not original, by the mean weight of their targets, each with ``items``, ``origin`` and
        ``weight``.
    """
    table = rows.table
    origin = pd.Series([Origin(one).name.lower() for one in table.origin])
    of_target = origin.to_numpy()[rows.sequence]
    frame = pd.DataFrame({"origin": of_target, "sequence": rows.sequence, "weight": trust.weights})
    origins = {
        str(name): {
            "targets": len(part),
            "mean": float(part.mean()),
            "deciles": [float(value) for value in np.quantile(part, np.linspace(0.1, 0.9, 9))],
        }
        for name, part in frame.groupby("origin")["weight"]
    }
    made = (
        frame[frame["origin"].isin({*trust.origins} - {"original"})]
        .groupby("sequence")["weight"]
        .mean()
        .sort_values()
    )

    def shown(part: pd.Series) -> list[dict[str, Any]]:
        return [
            {
                "items": [
                    vocabulary[item]
                    for item in table.items[table.offsets[sequence] : table.offsets[sequence + 1]]
                ],
                "origin": origin[sequence],
                "weight": float(weight),
            }
            for sequence, weight in part.items()
        ]

    ends = {"most": shown(made.iloc[::-1][:SHOWN]), "least": shown(made.iloc[:SHOWN])}
    return {"moves": trust.moves, "origins": origins, **ends}


def save_trust(
    rows: Prefixes, weights: NDArray[np.float32], facts: dict[str, Any], folder: Path, title: str
) -> None:
    """Write the weights as ``personalisation.txt`` and as a histogram by origin, ``personalisation.png``."""
    table = Table("", "origin", "targets", "mean weight", "items")
    if facts["moves"] is not None:
        table.caption = f"weights learned in {facts['moves']} steps"
    for name, about in facts["origins"].items():
        table.add_row("all", name, str(about["targets"]), f"{about['mean']:.4f}", "")
    for kind in ("most", "least"):
        for row in facts[kind]:
            table.add_row(
                f"{kind} trusted", row["origin"], "", f"{row['weight']:.4f}", " → ".join(row["items"])
            )
    write_bytes(folder / "personalisation.txt", render(table).encode())
    of_target = rows.table.origin[rows.sequence]
    with png_figure(folder / "personalisation.png", 6.4, 4.0, title) as figure:
        axes = figure.add_subplot()
        for origin in Origin:
            part = weights[of_target == origin.value]
            if len(part):
                axes.hist(
                    part,
                    bins=40,
                    range=(0, 1),
                    histtype="step",
                    density=True,
                    color=COLOURS[origin.name.lower()],
                    label=origin.name.lower(),
                )
        axes.set_xlabel("weight of a training target")
        axes.set_ylabel("density")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
