"""A regenerated data set is shown whole, whatever of it is known."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np

from recbole_ra.regeneration.pictures import statistics_plot, statistics_table
from recbole_ra.regeneration.statistics import Numbers, RegenerationStatistics
from recbole_ra.report.tables import render


def rows(count: int, dropped: int | None, new: float) -> Numbers:
    return {
        "rows": count, "interactions": 3 * count, "lengths": {"2": count // 2, "70": count - count // 2},
        "coverage": 0.75, "transitions": 17, "new_transitions": new, "new_occurrences": new / 2,
        "dropped": dropped,
    }  # fmt: skip


DECODED = {"copies": 0.125, "foreign_items": 0.333}
FULL = RegenerationStatistics(
    12_101,
    {
        "original": rows(22_363, 0, 0.0),
        "pattern": rows(40_664, 12, 0.25),
        "regenerated": rows(98_765, 321, 0.5),
    },
    {"0": rows(50_000, 300, 0.625), "1": rows(0, 21, 0.0)},
    DECODED,
    {"0": DECODED, "1": DECODED},
)
BARE = RegenerationStatistics(12_101, {"pattern": rows(7, None, 0.25)}, {}, None, {})


def cells(statistics: RegenerationStatistics) -> list[list[str]]:
    lines = render(statistics_table(statistics)).splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line[0] == "│"]


def test_one_row_an_origin_and_a_latent_space() -> None:
    assert cells(FULL) == [
        ["original", "22363", "0", "3.00", "75.0%", "17", "0.0%", "0.0%", "–", "–"],
        ["pattern", "40664", "12", "3.00", "75.0%", "17", "25.0%", "12.5%", "–", "–"],
        ["regenerated", "98765", "321", "3.00", "75.0%", "17", "50.0%", "25.0%", "12.5%", "33.3%"],
        ["space 0", "50000", "300", "3.00", "75.0%", "17", "62.5%", "31.2%", "12.5%", "33.3%"],
        ["space 1", "0", "21", "0.00", "75.0%", "17", "0.0%", "0.0%", "12.5%", "33.3%"],
    ]


def test_what_is_unknown_is_a_dash() -> None:
    assert cells(BARE) == [["pattern", "7", "–", "3.00", "75.0%", "17", "25.0%", "12.5%", "–", "–"]]


def draw(path: Path, statistics: RegenerationStatistics) -> np.ndarray:
    statistics_plot(statistics, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return matplotlib.image.imread(path)


def test_every_panel_is_drawn(tmp_path: Path) -> None:
    full, bare = draw(tmp_path / "x.png", FULL), draw(tmp_path / "x.png", BARE)
    assert full.shape == bare.shape
    height, width = full.shape[0] // 2, full.shape[1] // 2
    for top in (0, height):
        for left in (0, width):
            panel = (slice(top, top + height), slice(left, left + width))
            assert (full[panel] != 1).any(axis=-1).mean() > 0.01, "something is drawn"
            assert not np.array_equal(full[panel], bare[panel]), "and it shows the numbers"


def test_no_rows_at_all(tmp_path: Path) -> None:
    empty = draw(tmp_path / "x.png", RegenerationStatistics(5, {}, {}, None, {}))
    one = draw(tmp_path / "x.png", BARE)
    assert empty.shape == one.shape
    assert (empty != 1).mean() < (one != 1).mean(), "axes, and nothing in them"
