"""A sweep's trials are ranked, listed and written as they ended, whatever they lack."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.report.tables import render
from recbole_ra.tuning.table import Trial, best_first, best_trial, trials_table, write_trials

METRIC = "ndcg@10"
ERROR = "RuntimeError: [a] is out of memory; reduce train_batch_size and run again"


def trial(number: int, best: float | None, status: str = "finished", **parameters: Any) -> Trial:
    if best is None:
        return Trial(f"t{number:04}", parameters, status, epochs=12, seconds=61.25)
    return Trial(f"t{number:04}", parameters, status, best, 7, 12, 61.25)


SWEEP = [
    trial(0, 0.05, alpha=0.1, k=5, source="both"),
    trial(1, 0.07, "stopped", alpha=0.123456, k=10, source="[b]patterns"),
    Trial("t0002", {"alpha": 0.9, "k": 5, "source": "both"}, "failed", best=0.9, error=ERROR),
    trial(3, 0.07, alpha=0.5, k=20, source="both"),
    trial(4, None, "waiting", alpha=1e-5, k=10, source="both"),
    trial(5, 0.06, "running", alpha=0.7, k=20, source="both"),
]


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_the_best_trial_is_the_first_of_equals_and_never_a_failed_one() -> None:
    biggest, smallest = best_trial(SWEEP, bigger=True), best_trial(SWEEP, bigger=False)
    assert biggest is SWEEP[1]
    assert smallest is SWEEP[0]
    assert [t.name for t in best_first(SWEEP, bigger=True)] == ["t0001", "t0003", "t0005", "t0000"]
    assert [t.name for t in best_first(SWEEP, bigger=False)] == ["t0000", "t0005", "t0001", "t0003"]


def test_no_trial_is_best_if_none_has_a_number() -> None:
    others = [
        trial(0, float("nan")),
        trial(1, float("inf")),
        trial(2, None, "running"),
        trial(3, 1, "failed"),
    ]
    assert best_trial(others, bigger=True) is None
    assert best_trial([], bigger=True) is None
    assert best_trial([*others, trial(4, -3.0)], bigger=True) == trial(4, -3.0)


def test_the_table_has_the_best_first_and_those_without_a_value_last() -> None:
    table = trials_table(SWEEP, METRIC, bigger=True)
    rows = lines(render(table))
    assert rows[0] == ["trial", "status", "alpha", "k", "source", METRIC, "epoch", "seconds", "error"]
    assert rows[2] == ["t0001", "stopped", "0.1235", "10", "[b]patterns", "0.0700", "7/12", "61.2"]
    assert [row[0] for row in rows[2:-1]] == ["t0001", "t0003", "t0005", "t0000", "t0002", "t0004"]
    assert rows[6][:8] == ["t0002", "failed", "0.9", "5", "both", "0.9000", "–/0", "0.0"]
    assert rows[7] == ["t0004", "waiting", "1e-05", "10", "both", "–", "–/12", "61.2"]
    assert " ".join(rows[-1]) == "6 trials: 1 waiting, 1 running, 2 finished, 1 stopped, 1 failed"
    assert [row.style for row in table.rows] == ["bold", *[None] * 5]


def test_a_minimising_table_starts_with_the_smallest() -> None:
    assert [row[0] for row in lines(render(trials_table(SWEEP, "loss", bigger=False)))[2:4]] == [
        "t0000",
        "t0005",
    ]


def test_errors_are_shortened_and_have_a_column_only_if_there_are_any() -> None:
    text = render(trials_table(SWEEP, METRIC, bigger=True))
    assert "RuntimeError: [a]" in text
    assert "…" in text
    assert "run again" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "error" not in render(trials_table(SWEEP[:2], METRIC, bigger=True))


def test_a_limit_says_how_many_are_hidden() -> None:
    rows = lines(render(trials_table(SWEEP, METRIC, bigger=True, limit=2)))
    assert [row[0] for row in rows[2:4]] == ["t0001", "t0003"]
    assert " ".join(rows[-2]) == "6 trials: 1 waiting, 1 running, 2 finished, 1 stopped, 1 failed"
    assert " ".join(rows[-1]) == "4 more not shown"
    assert "not shown" not in render(trials_table(SWEEP, METRIC, bigger=True, limit=6))


def test_tables_without_a_value_have_no_bold_row() -> None:
    failed = [trial(0, None, "failed", a=1), trial(1, None, "failed", a=2)]
    assert [row.style for row in trials_table(failed, METRIC, bigger=True).rows] == [None, None]
    assert "2 trials: 2 failed" in render(trials_table(failed, METRIC, bigger=True))
    assert "no trials" in render(trials_table([], METRIC, bigger=True))


def test_long_names_break_after_underscores() -> None:
    table = trials_table([trial(0, 1.0, n_neighbors=1, raft_learning_rate=2)], METRIC, bigger=True)
    assert [str(column.header) for column in table.columns[2:4]] == [
        "n_neighbors",
        "raft_\nlearning_\nrate",
    ]


def read(path: Path) -> list[list[str]]:
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_csv_has_one_line_a_trial_in_the_order_given(tmp_path: Path) -> None:
    write_trials(SWEEP, tmp_path / "trials.csv", METRIC)
    rows = read(tmp_path / "trials.csv")
    parameters = ["alpha", "k", "source"]
    assert rows[0] == ["trial", "status", *parameters, METRIC, "best_epoch", "epochs", "seconds", "error"]
    assert rows[1] == ["t0000", "finished", "0.1", "5", "both", "0.05", "7", "12", "61.25", ""]
    assert rows[3] == ["t0002", "failed", "0.9", "5", "both", "0.9", "", "0", "0.0", ERROR]
    assert rows[5] == ["t0004", "waiting", "1e-05", "10", "both", "", "", "12", "61.25", ""]


def test_csv_keeps_a_parameter_that_is_named_like_a_column(tmp_path: Path) -> None:
    write_trials([trial(0, 0.5, epochs=3)], tmp_path / "trials.csv", METRIC)
    header, row = read(tmp_path / "trials.csv")
    assert [value for name, value in zip(header, row, strict=True) if name == "epochs"] == ["3", "12"]


@given(
    st.floats(allow_nan=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("a,\"'\n;é$", min_size=1),
)
def test_csv_values_round_trip(
    tmp_path_factory: pytest.TempPathFactory, x: float, best: float, text: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "trials.csv"
    write_trials([trial(0, best, x=x, text=text), trial(1, None, x=0.5, text=text)], path, METRIC)
    _, first, second = read(path)
    assert (float(first[2]), first[3], float(first[4])) == (x, text, best)
    assert (second[2], second[3], second[4]) == ("0.5", text, "")
