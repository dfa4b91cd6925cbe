"""Figures are written whole, from whatever epochs there are."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from recbole_ra.core.errors import DataError
from recbole_ra.report.plots import Epoch, gains_by_group, learning_curve, png_figure, weight_curve

METRIC = "ndcg@10"
HISTORY: list[Epoch] = [
    {"epoch": e, "loss": 8 - 0.1 * e, METRIC: 0.05 - 0.001 * (e - 6) ** 2} for e in range(12)
]
STAGES: list[Epoch] = [{**entry, "stage": stage} for stage in ("backbone", "raft") for entry in HISTORY]


def draw(path: Path, history: list[Epoch], best: int | dict[str, int] | None = None) -> np.ndarray:
    learning_curve(history, path, metric=METRIC, best_epoch=best, title="amazon-beauty")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return matplotlib.image.imread(path)


def test_one_panel_a_stage(tmp_path: Path) -> None:
    one = draw(tmp_path / "x.png", HISTORY)
    two = draw(tmp_path / "x.png", STAGES, {"backbone": 3, "raft": 6})
    assert two.shape == (one.shape[0], 2 * one.shape[1], 4)


def test_the_best_epoch_changes_the_figure(tmp_path: Path) -> None:
    plain, marked = draw(tmp_path / "x.png", HISTORY), draw(tmp_path / "x.png", HISTORY, 6)
    assert not np.array_equal(plain, marked)
    assert np.array_equal(plain, draw(tmp_path / "x.png", HISTORY, 99))


def test_epochs_without_validation_and_a_single_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    gaps: list[Epoch] = [entry if n % 3 == 0 else {"loss": 1.0} for n, entry in enumerate(HISTORY)]
    for history in (gaps, HISTORY[:1]):
        with contextlib.suppress(FileNotFoundError):  # no file was made
            learning_curve(history, tmp_path / "x.png", metric=METRIC, best_epoch=0, title="x")
    drawn = [[line.get_ydata() for axes in figure.axes for line in axes.get_lines()] for figure in figures]
    validated = [entry[METRIC] for entry in gaps if METRIC in entry]
    assert len(validated) < len(gaps)
    assert any(np.array_equal(np.asarray(y, float)[np.isfinite(y)], validated) for y in drawn[0])
    assert any(np.array_equal(y, [HISTORY[0][METRIC]]) for y in drawn[1])


def test_what_is_solved_for_several_penalties_is_drawn_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    ridges: list[Epoch] = [{**HISTORY[n], "epoch": n, "ridge": ridge} for n, ridge in enumerate((0, 1, 50))]
    with contextlib.suppress(FileNotFoundError):  # no file was made
        learning_curve(ridges, tmp_path / "x.png", metric=METRIC, best_epoch=2, title="x")
    left = figures[0].axes[0]
    assert left.get_xlabel() == "λ"
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "1", "50"]
    assert [text.get_text() for text in left.get_legend().get_texts()][-1].startswith("best λ 50 ")


def test_a_group_without_an_error_has_no_bar_of_it(tmp_path: Path) -> None:
    group = {"rows": 1, "gain": 1.0, "error": None}
    gains_by_group({"length": {"1 to 5": group}}, tmp_path / "x.png", metric=METRIC, title="x")
    none = matplotlib.image.imread(tmp_path / "x.png")
    known = {"length": {"1 to 5": {**group, "error": 0.4}}}
    gains_by_group(known, tmp_path / "x.png", metric=METRIC, title="x")
    assert not np.array_equal(none, matplotlib.image.imread(tmp_path / "x.png"))


@pytest.mark.parametrize(
    ("history", "match"),
    [([], "history is empty"), ([{"loss": 1.0, "ndcg@1": 0.1}], "did you mean 'ndcg@1'")],
)
def test_nothing_to_draw(tmp_path: Path, history: list[Epoch], match: str) -> None:
    with pytest.raises(DataError, match=match):
        draw(tmp_path / "x.png", history)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Figure, file: Any, **_: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "x.png"
    draw(path, HISTORY)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), png_figure(path, 4, 3):
        raise ZeroDivisionError
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(KeyboardInterrupt):
        draw(path, HISTORY[:3])
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("title", ["美妆 данные", "a$b$c_{", "$x", "\\frac", "l\udcc3\udca4den"])
def test_any_name_can_be_a_title(tmp_path: Path, title: str) -> None:
    learning_curve(HISTORY, tmp_path / "x.png", metric=METRIC, best_epoch=None, title=title)
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize("history", [HISTORY, STAGES])
def test_legends_and_title_lie_inside_and_apart(
    history: list[Epoch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **o: (figures.append(self), save(self, *a, **o)))
    besides = [f"masked_{METRIC}", f"mean_{METRIC}"]
    full: list[Epoch] = [{**entry, **dict.fromkeys(besides, 0.01)} for entry in history]
    title = "RaSASRec on " + "a-long-name-" * 9
    marked = {"backbone": 3, "raft": 6, "": 6}
    learning_curve(full, tmp_path / "x.png", metric=METRIC, best_epoch=marked, title=title, besides=besides)
    (figure,) = figures
    legends = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
    assert len(legends) == len({entry.get("stage") for entry in history})
    heading = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    for box in (*legends, heading):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for left, right in itertools.pairwise(legends):
        assert left.x1 < right.x0


def test_what_was_chosen_need_not_lie_on_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: figures.append(self))
    curves = {name: [(1.0, 0.0, 0.0), (0.5, 0.01, 0.002), (0.2, -0.01, 0.003)] for name in ("one", "other")}
    chosen = dict.fromkeys(curves, (0.5, 0.02, 0.002))
    weight_curve(
        curves, chosen, tmp_path / "x.png", weight="w", label="chosen: 0.5", metric=METRIC, title="x"
    )
    (axes,) = figures[0].axes
    lines = [bars.lines[0].get_xydata().tolist() for bars in axes.containers]
    assert lines == [[[0.2, -0.01], [0.5, 0.01], [1.0, 0.0]], [[0.5, 0.02]]] * 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chosen: 0.5", "one", "other"]
