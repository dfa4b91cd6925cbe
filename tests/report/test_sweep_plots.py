"""Pictures of a sweep show what its trials have, and nothing fails for what they lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from recbole_ra.core.errors import DataError, RecboleRaError
from recbole_ra.report.sweep import Trial
from recbole_ra.report.sweep_plots import (
    best_so_far_plot,
    heat_map,
    parallel_plot,
    parameters_plot,
    sweep_plots,
)

METRIC = "ndcg@10"
DRAWINGS = (best_so_far_plot, parameters_plot, parallel_plot, heat_map)
ORANGE, BLUE, STOPPED, EMPTY = "#d1662b", "#3b6fb6", "#a8a8a8", "#f2f2f2"


def trial(number: int, best: float | None, status: str = "finished", **parameters: Any) -> Trial:
    return Trial(f"t{number:04}", parameters, status, best)


GRID = [trial(4 * i + j, 0.1 + i - j, alpha=i / 10, k=j) for i in range(4) for j in range(4)]
MIXED = [
    trial(0, 0.05, alpha=0.1, k=5, source="both"),
    trial(1, 0.07, "stopped", alpha=0.12, k=10, source="[b]patterns"),
    trial(2, 0.9, "failed", alpha=0.9, k=5),
    trial(3, None, "waiting", alpha=1e-5, k=10, source="both"),
    trial(4, 0.06, "running", alpha=0.7, k=20, source="both"),
]


def pixels(path: Path, colour: str) -> np.ndarray:
    """Places [n, 2] (row, column) of a colour, as shares of the picture."""
    image = matplotlib.image.imread(path)[..., :3]
    near = np.abs(image - to_rgb(colour)).max(-1) < 0.02
    return np.argwhere(near) / near.shape


def test_dots_have_the_colour_of_their_status(tmp_path: Path) -> None:
    count = {}
    for status in ("finished", "stopped", "running"):
        best_so_far_plot(
            [trial(n, 1.0 + n, status) for n in range(9)], tmp_path / "x.png", METRIC, bigger=True
        )
        count[status] = [len(pixels(tmp_path / "x.png", colour)) for colour in (BLUE, STOPPED)]
    assert count["stopped"][0] == 0
    assert count["finished"][0] > count["running"][0] > 0
    assert count["stopped"][1] > count["finished"][1] + 500


@pytest.mark.parametrize("bigger", [True, False])
def test_the_line_follows_the_best_so_far(tmp_path: Path, bigger: bool) -> None:
    path, falling = tmp_path / "x.png", [trial(n, 4.0 - n) for n in range(4)]
    best_so_far_plot(falling, path, METRIC, bigger=bigger)
    found = pixels(path, ORANGE)
    height = found[(found[:, 1] > 0.7) & (found[:, 0] < 0.85), 0].mean()
    assert (height < 0.4) == bigger


def test_failed_trials_leave_a_cross(tmp_path: Path) -> None:
    images = []
    for status in ("failed", "waiting"):
        best_so_far_plot([*GRID[:4], trial(4, None, status)], tmp_path / "x.png", METRIC, bigger=True)
        images.append(matplotlib.image.imread(tmp_path / "x.png"))
    assert images[0].shape == images[1].shape
    differ = np.argwhere((images[0] != images[1]).any(-1)) / images[0].shape[:2]
    assert ((differ[:, 0] > 0.7) & (differ[:, 0] < 0.85) & (differ[:, 1] > 0.8)).sum() > 20


def test_four_panels_a_row(tmp_path: Path) -> None:
    shapes = {}
    for number in (1, 4, 5):
        trials = [trial(n, 0.1 * n, **{f"p{i}": n for i in range(number)}) for n in range(3)]
        parameters_plot(trials, tmp_path / "x.png", METRIC, bigger=True)
        shapes[number] = matplotlib.image.imread(tmp_path / "x.png").shape
        assert len(pixels(tmp_path / "x.png", BLUE)) > 100 * number
    assert shapes[5][1] == shapes[4][1] > shapes[1][1]
    assert shapes[5][0] > shapes[4][0] == shapes[1][0]


def test_parallel_has_an_axis_a_parameter_and_the_best_line_changes_with_the_direction(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / name for name in ("two.png", "three.png", "less.png")]
    parallel_plot(GRID, paths[0], METRIC, bigger=True)
    parallel_plot(
        [*GRID, trial(16, 0.2, alpha=0.1, source="x"), trial(17, 0.2, source="y")],
        paths[1],
        METRIC,
        bigger=True,
    )
    parallel_plot(GRID, paths[2], METRIC, bigger=False)
    two, three, less = map(matplotlib.image.imread, paths)
    assert two.shape[1] < three.shape[1]
    assert two.shape == less.shape
    assert not np.array_equal(two, less)


@pytest.mark.parametrize("bigger", [True, False])
def test_the_best_cell_is_framed(tmp_path: Path, bigger: bool) -> None:
    heat_map(GRID, tmp_path / "x.png", METRIC, bigger=bigger)
    row, column = np.median(pixels(tmp_path / "x.png", ORANGE), axis=0)
    # The biggest value is at the lower left, the smallest at the upper right.
    assert (row > 0.6, column < 0.4) == (bigger, bigger)


def test_cells_without_a_value_are_hatched(tmp_path: Path) -> None:
    count = []
    for status in ("finished", "failed"):
        few = [trial(n, 0.1, status, **GRID[n].parameters) for n in range(5)]
        heat_map([*few, *GRID[5:]], tmp_path / "x.png", METRIC, bigger=True)
        count.append(len(pixels(tmp_path / "x.png", EMPTY)))
    assert count[1] > count[0] + 10_000


def test_a_cell_shows_the_best_of_its_trials(tmp_path: Path) -> None:
    images = []
    for again in ([], [trial(16, -5.0, **GRID[0].parameters)], [trial(16, 0.5, **GRID[0].parameters)]):
        heat_map([*again, *GRID], tmp_path / "x.png", METRIC, bigger=True)
        images.append(matplotlib.image.imread(tmp_path / "x.png"))
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize(
    ("trials", "match"),
    [
        (
            [trial(0, 1.0, a=1, b=2), trial(1, 1.0, a=2, b=2)],
            r"two parameters .* at least two values each; 1 have \(a\)",
        ),
        ([trial(0, 1.0, a=1, b=2)], "none has"),
        ([trial(n, 1.0, a=n, b=n, c=n) for n in range(2)], r"3 have \(a, b, c\)"),
        ([trial(n, 1.0, **{"ab"[n % 2]: n}) for n in range(4)], "no trial has a value of 'ndcg@10'"),
    ],
)
def test_a_heat_map_needs_two_parameters(tmp_path: Path, trials: list[Trial], match: str) -> None:
    with pytest.raises(DataError, match=match):
        heat_map(trials, tmp_path / "x.png", METRIC, bigger=True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_drawn_if_all_failed(tmp_path: Path) -> None:
    failed = [trial(n, None, "failed", a=n, b=-n) for n in range(3)]
    assert sweep_plots(failed, tmp_path / "plots", METRIC, bigger=True) == []
    for draw in DRAWINGS:
        with pytest.raises(
            DataError, match=r"x.png: no trial has a value of 'ndcg@10' to draw; see the errors"
        ):
            draw(failed, tmp_path / "x.png", METRIC, bigger=True)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_without_parameters_has_no_panel(tmp_path: Path) -> None:
    for draw in (parameters_plot, parallel_plot):
        with pytest.raises(DataError, match="no trial has a parameter to draw"):
            draw([trial(0, 1.0)], tmp_path / "x.png", METRIC, bigger=True)


ALL = ["best_so_far", "parameters", "parallel", "heat_map"]


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        (GRID, ALL),
        ([trial(n, 1.0, a=n % 2, b=n % 3, seed=1) for n in range(6)], ALL),
        (MIXED, ALL[:3]),
        ([trial(n, 1.0, a=n, b=n) for n in range(13)], ALL[:3]),
        ([trial(n, 1.0, **{"ab"[n % 2]: n}) for n in range(4)], ALL[:3]),
        ([*GRID[:2], *(trial(n, None, "failed", alpha=n, k=n, c=n) for n in range(2))], ALL[:3]),
        ([trial(n, 1.0, a=n, b=1) for n in range(3)], ALL[:2]),
        ([trial(n, 1.0, text=f"${n}$" * 20) for n in range(30)], ALL[:2]),
        ([trial(0, 0.05, a=0.1, source="both", flag=True, layers=[64, 64])], ALL[:3]),
        ([trial(0, 0.05, a=0.1)], ALL[:2]),
        ([trial(0, 0.05)], ALL[:1]),
    ],
)
def test_what_can_be_drawn_is_drawn(tmp_path: Path, trials: list[Trial], names: list[str]) -> None:
    folder = tmp_path / "sweep" / "plots"
    paths = sweep_plots(trials, folder, METRIC, bigger=True)
    assert paths == [folder / f"{name}.png" for name in names]
    assert sorted(folder.iterdir()) == sorted(paths)
    for path in paths:
        assert 0.002 < (matplotlib.image.imread(path)[..., :3].min(-1) < 0.9).mean() < 0.7


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RecboleRaError, match="plots: no permission to write there"):
        sweep_plots(GRID, tmp_path / "plots", METRIC, bigger=True)
