"""Pictures of a sweep show what its trials have, and nothing fails for what they lack."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from recbole_ra.core.errors import RecboleRaError
from recbole_ra.tuning.table import Trial

pytest.importorskip("optuna", reason="make setup-tune installs it")

from optuna.trial import TrialState

from recbole_ra.tuning.pictures import ORANGE, draw_sweep, optuna_plots

METRIC = "ndcg@10"


def trial(number: int, best: float | None, status: str = "finished", **parameters: Any) -> Trial:
    return Trial(f"t{number:04}", parameters, status, math.nan if best is None else best)


GRID = [trial(4 * i + j, 0.1 + i - j, alpha=i / 10, k=j) for i in range(4) for j in range(4)]
MIXED = [
    trial(0, 0.05, alpha=0.1, k=5, source="both"),
    trial(1, 0.07, "stopped", alpha=0.12, k=10, source="[b]patterns"),
    trial(2, 0.9, "failed", alpha=0.9, k=5, source="both"),
    trial(3, None, "waiting", alpha=1e-5, k=10, source="both"),
    trial(4, 0.06, "running", alpha=0.7, k=20, source="both"),
]


def drawn(trials: list[Trial], folder: Path, name: str, *, bigger: bool = True) -> np.ndarray:
    """One of the pictures, shape [height, width, 3]."""
    draw_sweep(trials, folder, METRIC, bigger=bigger)
    return matplotlib.image.imread(folder / f"{name}.png")[..., :3]


def middle(image: np.ndarray, colour: str) -> tuple[float, float]:
    """Row and column in the middle of a colour, as shares of the picture."""
    near = np.abs(image - to_rgb(colour)).max(-1) < 0.02
    row, column = (np.argwhere(near) / near.shape).mean(0)
    return float(row), float(column)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The studies that Optuna draws."""
    studies: list[Any] = []
    draw = optuna_plots.plot_slice

    def keep(study: Any, *others: Any, **options: Any) -> Any:
        studies.append(study)
        return draw(study, *others, **options)

    monkeypatch.setattr(optuna_plots, "plot_slice", keep)
    return studies


def test_only_trials_with_a_value_are_drawn_under_their_numbers(tmp_path: Path, study: list[Any]) -> None:
    draw_sweep(MIXED, tmp_path, METRIC, bigger=True)
    complete = [one for one in study[0].trials if one.state == TrialState.COMPLETE]
    assert [(one.number, one.value) for one in complete] == [(0, 0.05), (1, 0.07), (4, 0.06)]
    assert complete[1].params == {"alpha": 0.12, "k": 10, "source": "[b]patterns"}
    assert study[0].best_trial.number == 1


@pytest.mark.parametrize(
    ("values", "log"),
    [([1e-4, 2e-4, 1e-2], True), ([10, 20, 300], False), ([1, 10, 31], True), ([0, 1, 100], False)],
)
def test_positive_values_that_span_much_are_on_a_logarithmic_axis(
    tmp_path: Path, values: list[float], log: bool, study: list[Any]
) -> None:
    draw_sweep([trial(n, 0.1 * n, x=value) for n, value in enumerate(values)], tmp_path, METRIC, bigger=True)
    assert study[0].trials[0].distributions["x"].log == log


@pytest.mark.parametrize("bigger", [True, False])
@pytest.mark.parametrize("name", ["best_so_far", "parameters"])
def test_the_best_trial_is_ringed(tmp_path: Path, bigger: bool, name: str) -> None:
    falling = [trial(n, 4.0 - n, x=n) for n in range(4)]
    row, column = middle(drawn(falling, tmp_path, name, bigger=bigger), ORANGE)
    # The biggest value is at the upper left, the smallest at the lower right.
    assert (row < 0.5, column < 0.5) == (bigger, bigger)


def test_parallel_has_an_axis_a_parameter_and_the_best_line_changes_with_the_direction(
    tmp_path: Path,
) -> None:
    two = drawn(GRID, tmp_path, "parallel")
    less = drawn(GRID, tmp_path, "parallel", bigger=False)
    three = drawn([trial(n, 0.2, a=n, b=-n, c=f"v{n}") for n in range(3)], tmp_path, "parallel")
    assert two.shape[1] < three.shape[1]
    assert two.shape != less.shape or not np.array_equal(two, less)


@pytest.mark.parametrize("bigger", [True, False])
def test_the_best_cell_is_framed(tmp_path: Path, bigger: bool) -> None:
    row, column = middle(drawn(GRID, tmp_path, "heat_map", bigger=bigger), ORANGE)
    # The biggest value is at the lower left, the smallest at the upper right.
    assert (row > 0.6, column < 0.4) == (bigger, bigger)


def test_a_cell_shows_the_best_of_its_trials_or_nothing(tmp_path: Path) -> None:
    first = GRID[0].parameters
    plain = drawn(GRID, tmp_path, "heat_map")
    assert np.array_equal(drawn([*GRID, trial(16, -5.0, **first)], tmp_path, "heat_map"), plain)
    assert not np.array_equal(drawn([*GRID, trial(16, 0.5, **first)], tmp_path, "heat_map"), plain)
    without = drawn(GRID[1:], tmp_path, "heat_map")
    assert without.shape == plain.shape
    assert not np.array_equal(without, plain)


ALL = ["best_so_far", "parameters", "parallel", "heat_map"]


@pytest.mark.parametrize(
    ("trials", "names"),
    [
        (GRID, ALL),
        ([trial(n, 1.0, a=n % 2, b=n % 3, seed=1) for n in range(6)], ALL),
        ([trial(n, 1.0, a=[None, "x"][n % 2], b=[[64], [64, 64]][n // 2]) for n in range(4)], ALL),
        (MIXED, ALL[:3]),
        ([trial(n, 1.0, ridge=[None, 1, 5][n]) for n in range(3)], ALL[:2]),
        ([trial(n, 1.0, a=n, b=n) for n in range(13)], ALL[:3]),
        ([*GRID[:2], *(trial(n, None, "failed", alpha=n, k=n) for n in range(2))], ALL[:2]),
        ([trial(n, 1.0, a=n, b=n, c=n) for n in range(2)], ALL[:3]),
        ([trial(n, 1.0, a=n, b=1) for n in range(3)], ALL[:2]),
        ([trial(n, 1.0, text=f"${n}$" * 5) for n in range(30)], ALL[:2]),
        ([trial(0, 0.05, a=0.1, source="both", flag=True, layers=[64, 64])], ALL[:3]),
        ([trial(0, 0.05, a=0.1)], ALL[:2]),
        ([trial(0, 0.05)], ALL[:1]),
        ([trial(n, None, "failed", a=n, b=-n) for n in range(3)], []),
    ],
)
def test_what_can_be_drawn_is_drawn(tmp_path: Path, trials: list[Trial], names: list[str]) -> None:
    paths = draw_sweep(trials, tmp_path, METRIC, bigger=True)
    assert paths == [tmp_path / f"{name}.png" for name in names]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        assert 0.002 < (matplotlib.image.imread(path)[..., :3].min(-1) < 0.9).mean() < 0.95


def test_no_window_is_opened_and_no_figure_or_style_is_left(tmp_path: Path) -> None:
    style = dict(plt.rcParams)
    draw_sweep(GRID, tmp_path, METRIC, bigger=True)
    assert plt.get_fignums() == []
    assert plt.get_backend().lower() == "agg"
    assert {**plt.rcParams, "backend": ""} == {**style, "backend": ""}


def test_a_picture_that_cannot_be_written_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RecboleRaError, match=r"best_so_far\.png: no permission to write there"):
        draw_sweep(GRID, tmp_path, METRIC, bigger=True)
    assert list(tmp_path.iterdir()) == []
    assert plt.get_fignums() == []


def test_a_picture_of_fewer_trials_does_not_stay(tmp_path: Path) -> None:
    draw_sweep(GRID, tmp_path, METRIC, bigger=True)
    assert (tmp_path / "heat_map.png").exists()
    varied = [trial(place, 0.1, alpha=place, k=place % 3, seed=place) for place in range(6)]
    paths = draw_sweep(varied, tmp_path, METRIC, bigger=True)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
