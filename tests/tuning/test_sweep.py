"""Sweeps on Ray: what they leave behind, and what they survive."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml

from recbole_ra import run
from recbole_ra.cli import main

Words = Callable[..., list[str]]
FAILED, STOPPED, FINISHED = "failed", "stopped", "finished"


def trials_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "sweep" / "trials.csv", dtype={"trial": str})


class Finished(NamedTuple):
    """A sweep that came to its end."""

    folder: Path
    words: list[str]
    output: str


@pytest.fixture(scope="module")
def finished(words_below: Words, tmp_path_factory: pytest.TempPathFactory, machine: Any) -> Finished:
    folder, output = tmp_path_factory.mktemp("finished"), io.StringIO()
    space = "alpha: {grid: [0.3, 0.7]}\nn_neighbors: {grid: [2, 5]}"
    words = words_below(folder, space)  # the weight of the mixture is chosen after the last epoch
    with contextlib.redirect_stdout(output):
        assert main(["tune", *words]) == 0
    return Finished(folder, words, output.getvalue())


def test_a_grid_trains_one_backbone_and_leaves_table_pictures_and_settings(
    finished: Finished, tmp_path: Path
) -> None:
    folder = finished.folder
    table = trials_of(folder)
    assert set(zip(table["alpha"], table["n_neighbors"], strict=True)) == {
        (0.3, 2), (0.3, 5), (0.7, 2), (0.7, 5),
    }  # fmt: skip
    assert set(table["status"]) == {FINISHED}
    assert (table["epochs"] == 3).all()
    assert len(list((folder / "saved").glob("backbone-*"))) == 1
    assert len(list((folder / "saved").glob("bank-*"))) == 1
    pictures = {path.name for path in (folder / "sweep").glob("*.png")}
    assert pictures == {"best_so_far.png", "parameters.png", "parallel.png", "heat_map.png"}
    best = table.loc[table["mean_ndcg@10"].idxmax()]
    chosen = yaml.safe_load((folder / "sweep" / "best.yaml").read_text())
    assert (chosen["alpha"], chosen["n_neighbors"]) == (best["alpha"], best["n_neighbors"])
    again = run(config_files=[folder / "sweep" / "best.yaml"], output_dir=str(tmp_path / "again"))
    assert again.reused == ["backbone", "bank", "raft"]
    reached = sum(again.valid[protocol]["ndcg@10"] for protocol in ("unmasked", "masked")) / 2
    assert reached == pytest.approx(best["mean_ndcg@10"], abs=1e-4)
    assert f"{again.test['unmasked']['ndcg@10']:.4f}" in finished.output


def test_a_sweep_is_not_overwritten_by_accident(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trials_of(finished.folder)
    assert main(["tune", *finished.words]) == 2
    assert "exists; --resume goes on with that sweep, --overwrite starts it anew" in capsys.readouterr().err
    assert main(["tune", *finished.words, "--resume"]) == 0
    pd.testing.assert_frame_equal(trials_of(finished.folder), first)


def test_no_trial_looks_at_the_test_split(words: Words, tmp_path: Path, machine: Any) -> None:
    assert (
        main(["tune", *words("learning_rate: {grid: [0.01, 0.003]}", model="SASRec", max_concurrent=1)]) == 0
    )
    results = [pd.read_json(path, typ="series") for path in (tmp_path / "sweep").glob("*/*/*/result.json")]
    assert len(results) == 2
    assert all(result["test"] == {} for result in results)
    (tested,) = (tmp_path / "sweep" / "best").glob("SASRec-*/result.json")
    assert pd.read_json(tested, typ="series")["test"]["unmasked"]["recall@10"] > 0


def test_a_trial_that_raises_is_marked_and_the_sweep_goes_on(
    words: Words, tmp_path: Path, machine: Any
) -> None:
    assert (
        main(["tune", *words("min_support: {grid: [2, 900]}", memory_source="patterns", max_concurrent=1)])
        == 0
    )
    table = trials_of(tmp_path).set_index("min_support")
    assert table.loc[2, "status"] == FINISHED
    assert table.loc[900, "status"] == FAILED
    assert "DataError: data set 'walks': no pattern occurs in 900 sequences" in table.loc[900, "error"]


def test_where_every_trial_fails_the_first_error_is_told(
    words: Words, machine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *words("min_support: {grid: [900, 901]}", memory_source="patterns")]) == 2
    assert "no trial came to a result; the first error: DataError: data set" in capsys.readouterr().err


SPACE = "alpha: {uniform: [0.1, 0.9]}\nraft_learning_rate: {loguniform: [1e-5, 3e-2]}"


@pytest.mark.parametrize("search", ["random", pytest.param("optuna", marks=pytest.mark.slow)])
def test_asha_ends_trials_early_and_the_settings_as_they_stand_come_first(
    search: str, words: Words, tmp_path: Path, machine: Any
) -> None:
    options = {"scheduler": "asha", "grace_epochs": 1, "reduction_factor": 2, "raft_epochs": 6}
    assert main(["tune", *words(SPACE, trials=6, search=search, max_concurrent=1, **options)]) == 0
    table = trials_of(tmp_path)
    assert len(table) == 6
    assert (table.loc[0, "alpha"], table.loc[0, "raft_learning_rate"]) == (0.5, 0.003)
    stopped = table[table["status"] == STOPPED]
    assert len(stopped) >= 1
    assert stopped["epochs"].max() < 6
    assert set(table["status"]) <= {STOPPED, FINISHED}


@pytest.mark.slow
def test_median_stopping_runs(words: Words, tmp_path: Path, machine: Any) -> None:
    options = {"scheduler": "median", "grace_epochs": 1, "raft_epochs": 4}
    assert main(["tune", *words(SPACE, trials=5, max_concurrent=1, **options)]) == 0
    assert len(trials_of(tmp_path)) == 5


@pytest.mark.slow
def test_population_based_training_goes_on_from_better_trials(
    words: Words, tmp_path: Path, machine: Any
) -> None:
    options = {"scheduler": "pbt", "grace_epochs": 2, "raft_epochs": 10, "raft_stopping_step": 10}
    assert main(["tune", *words(SPACE, trials=4, **options)]) == 0
    started = list((tmp_path / "sweep" / "trials").glob("*/started_from.txt"))
    assert started
    assert all((path.parent / path.read_text() / "last.pt").exists() for path in started)


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """A sweep in a process of its own, with a Ray of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recbole_ra", "tune", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_trials(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Return once so many trials have ended."""
    for _ in range(1200):
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        if (folder / "sweep" / "trials.csv").exists():
            status = trials_of(folder)["status"]
            if status.isin([FINISHED, STOPPED, FAILED]).sum() >= count:
                return
        time.sleep(0.1)
    raise AssertionError("no trial ended within two minutes")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_result(words: Words, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="make setup-tune installs it")
    options = {"trials": 4, "max_concurrent": 1, "raft_epochs": 30, "raft_stopping_step": 30}
    sweep = words(SPACE, **options)
    process = start(sweep, tmp_path)
    wait_for_trials(tmp_path, 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = sorted((tmp_path / "sweep").glob("trials/*/*/result.json"))
    times = [path.stat().st_mtime_ns for path in finished]
    assert 2 <= len(finished) < 4
    resumed = start([*sweep, "--resume"], tmp_path)
    output, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert [path.stat().st_mtime_ns for path in finished] == times
    table = trials_of(tmp_path)
    assert list(table["status"]) == [FINISHED] * 4

    unbroken = tmp_path / "unbroken"
    folders = {"checkpoint_dir": "saved", "output_dir": "runs", "sweep_dir": "sweep"}
    moved = words(SPACE, **options, **{key: str(unbroken / name) for key, name in folders.items()})
    whole = start(moved, tmp_path)
    expected, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    columns = ["trial", "alpha", "raft_learning_rate", "mean_ndcg@10", "best_epoch", "epochs"]
    pd.testing.assert_frame_equal(table[columns], trials_of(unbroken)[columns])
    assert output.splitlines()[-8:] == expected.splitlines()[-8:]


@pytest.mark.slow
def test_an_interrupted_sweep_prints_the_best_so_far(words: Words, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="make setup-tune installs it")
    sweep = words(SPACE, trials=6, max_concurrent=1, raft_epochs=30, raft_stopping_step=30)
    process = start(sweep, tmp_path)
    wait_for_trials(tmp_path, 1, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "best so far" in output + errors
    assert (tmp_path / "sweep" / "best.yaml").exists()
    assert "Traceback" not in errors
