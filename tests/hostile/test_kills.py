"""Processes that are interrupted, ended or killed at any moment, and several on one store."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from hostile.arena import AUGMENTED, EVERYTHING, MADE, Arena, judge, result_of, stored, write
from hostile.nursery import Nursery

pytestmark = pytest.mark.slow

CHECK = "recbole_ra.training.trainer:RaTrainer._check_nan"
MOMENTS: dict[str, dict[str, Any]] = {
    "data": {"call": "recbole_ra.pipeline.runner:RankingEvaluator"},
    "patterns": {"call": "recbole_ra.regeneration.patterns:mine_patterns"},
    "teacher": {"call": CHECK, "stage": "teacher"},
    "regenerator": {"call": CHECK, "stage": "DR4SR"},
    "decoded": {"call": "recbole_ra.regeneration.decoding:decode_block"},
    "backbone": {"call": CHECK, "stage": "SASRec"},
    "bank": {"call": "recbole_ra.retrieval.bank:build_bank"},
    "raft": {"call": CHECK, "stage": "RAFT"},
    "test": {"call": "recbole_ra.pipeline.runner:extend_bank"},
    "result": {"call": "recbole_ra.pipeline.result:write_json"},
}
"""A moment in every stage."""

INTERRUPTED = "recbole-ra: interrupted; what was finished is kept, the same command with --resume continues"
N_KILLS = 50


class Moment(NamedTuple):
    """A row: a signal, and when it comes."""

    kind: str
    name: str
    trap: dict[str, Any]
    code: int
    seconds: float = 0.0

    def __str__(self) -> str:
        return self.name


SIGNALS = [
    Moment(f"{number.name} in every stage", stage, {**trap, "number": 1, "signal": number}, code)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM))
    for stage, trap in MOMENTS.items()
]
dice = random.Random(2)
KILLS = [
    Moment("SIGKILL at random moments", f"at file operation {number}", {"call": "file operation", "number": number, "signal": signal.SIGKILL}, -signal.SIGKILL)
    for number in sorted(dice.sample(range(5, 340), N_KILLS * 3 // 5))
]  # fmt: skip
KILLS += [
    Moment("SIGKILL at random moments", f"after {share:.1%} of the time", {"call": "time", "signal": signal.SIGKILL}, -signal.SIGKILL, share)
    for share in sorted(dice.uniform(0.05, 0.85) for _ in range(N_KILLS - len(KILLS)))
]  # fmt: skip


class Unbroken(NamedTuple):
    """A whole run: its results, what it stored, and the seconds of CPU that it took."""

    result: dict[str, Any]
    names: set[str]
    seconds: float


@pytest.fixture(scope="module")
def unbroken(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    for name in ("warmed", "unbroken"):  # the first takes longer than any later one
        folder = tmp_path_factory.mktemp(name) / "arena"
        folder.mkdir()
        ended = Arena(folder, nursery).run(EVERYTHING)
        judge(ended, 0, "result: runs/")
    return Unbroken(result_of(folder), stored(folder), ended.seconds)


def judge_resumed(arena: Arena, unbroken: Unbroken) -> None:
    """See that the run goes on to the results of an unbroken one, and that nothing else is left."""
    judge(arena.run(f"{EVERYTHING} --resume"), 0, "result: runs/")
    assert result_of(arena.folder) == unbroken.result
    assert stored(arena.folder) == unbroken.names


@pytest.mark.parametrize("case", SIGNALS, ids=lambda case: f"{case.kind}: {case.name}")
def test_signals_in_every_stage(case: Moment, arena: Arena, unbroken: Unbroken) -> None:
    before = arena.files()
    ended = arena.run(EVERYTHING, trap=case.trap)
    if case.code > 0:
        judge(ended, case.code, INTERRUPTED)
    assert (ended.code, "Traceback" in ended.err) == (case.code, False), ended.err
    arena.judge_files(before, new=True, unfinished=True)
    assert not list(arena.folder.glob("runs/*/result.json"))
    judge_resumed(arena, unbroken)


@pytest.mark.parametrize("case", KILLS, ids=str)
def test_kills_at_random_moments(case: Moment, arena: Arena, unbroken: Unbroken) -> None:
    before = arena.files()
    ended = arena.run(EVERYTHING, trap={"number": case.seconds * unbroken.seconds, **case.trap})
    if case.seconds and ended.code == 0:  # it was faster than the unbroken one: within its own time
        for name in MADE:
            shutil.rmtree(arena.folder / name)
        ended = arena.run(EVERYTHING, trap={"number": case.seconds * ended.seconds * 0.7, **case.trap})
    assert ended.code == case.code, ended
    arena.judge_files(before, new=True, unfinished=True)
    judge_resumed(arena, unbroken)


def test_a_chain_of_kills(arena: Arena, unbroken: Unbroken) -> None:
    """Each resumed run is killed again, further on."""
    for number in range(60, 300, 40):
        trap = {"call": "file operation", "number": number, "signal": signal.SIGKILL}
        ended = arena.run(f"{EVERYTHING} --resume", trap=trap)
        assert ended.code in (-signal.SIGKILL, 0), ended
    judge_resumed(arena, unbroken)


class AtOnce(NamedTuple):
    """A row: how many runs share a store, and whether one of them is killed."""

    kind: str
    count: int
    killed: bool

    def __str__(self) -> str:
        return f"{self.count} runs at once{', one killed' if self.killed else ''}"


AT_ONCE = [AtOnce("several at once", count, killed) for count in (2, 4) for killed in (False, True)]


@pytest.mark.parametrize("case", AT_ONCE, ids=str)
def test_several_runs_on_one_store(case: AtOnce, arena: Arena, unbroken: Unbroken) -> None:
    children: list[dict[str, Any]] = []
    for number in range(case.count):
        words = [*EVERYTHING.split(), f"--output_dir=runs-{number}"]
        children.append({"words": words, "folder": str(arena.folder)})
    if case.killed:
        children[0]["trap"] = {"call": CHECK, "stage": "SASRec", "number": 2, "signal": signal.SIGKILL}
    arena.nursery.start(children)
    ended = arena.nursery.wait()
    made: list[str] = []
    for number, run in enumerate(ended):
        if run.code == -signal.SIGKILL and case.killed and number == 0:
            continue
        judge(run, 0, "result: runs")
        (arena.folder / "runs").symlink_to(f"runs-{number}")
        assert result_of(arena.folder) == unbroken.result
        (arena.folder / "runs").unlink()
        made += [line for line in run.err.splitlines() if "epoch 1:" in line]
    if not case.killed:
        assert len(made) == 4, made  # of teacher, regenerator, backbone and fine-tuning, each once
    assert any("another run makes it; waiting" in run.err for run in ended)
    assert stored(arena.folder) == unbroken.names


def test_several_prepare_the_same(arena: Arena) -> None:
    write(arena.folder / "sales.csv", "user,item,time\n" + "a,b,1\n" * 1000)
    words = ["prepare", "sales.csv", "--name=made", "--overwrite"]
    arena.nursery.start([{"words": words, "folder": str(arena.folder)} for _ in range(4)])
    for ended in arena.nursery.wait():
        judge(ended, 0, "1,?000 interactions")
    assert [path.name for path in (arena.folder / "dataset" / "made").iterdir()] == ["made.inter"]


# Sweeps

SPACE = "alpha: {uniform: [0.1, 0.9]}\nbeta: {uniform: [0.0, 1.0]}\n"
SWEEP = (
    f"tune {AUGMENTED} --space=space.yaml --trials=3 --max_concurrent=1 --scheduler=none --sweep_dir=sweep"
).replace("--raft_epochs=2", "--raft_epochs=6 --raft_stopping_step=6")
SWEEP_KILLS = [
    Moment("sweep", f"{number.name} in trial {trial} and {wait:.2f} s", {"signal": number, "trial": trial}, code, wait)
    for number, code, trials in (
        (signal.SIGKILL, -signal.SIGKILL, (1, 2, 3)),
        (signal.SIGINT, 130, (2,)),
        (signal.SIGTERM, -signal.SIGTERM, (1,)),
    )
    for trial in trials
    for wait in [dice.uniform(0, 0.3)]
]  # fmt: skip


def start_sweep(folder: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "recbole_ra", *SWEEP.split(), *more],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Where the tests run in the background, children would inherit that interrupts are ignored.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def outcome_of(folder: Path) -> Any:
    table = pd.read_csv(folder / "sweep" / "trials.csv", dtype={"trial": str})
    return table[["trial", "status", "alpha", "beta", "mean_ndcg@10", "best_epoch", "epochs"]].to_dict(
        "records"
    )


class Swept(NamedTuple):
    """A whole sweep: its trials, and what it printed at the end."""

    trials: Any
    table: list[str]


@pytest.fixture(scope="module")
def swept(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    pytest.importorskip("ray", reason="make setup-tune installs it")
    folder = tmp_path_factory.mktemp("swept") / "arena"
    folder.mkdir()
    Arena(folder, nursery)
    write(folder / "space.yaml", SPACE)
    process = start_sweep(folder)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return Swept(outcome_of(folder), out.splitlines()[-8:])


@pytest.mark.parametrize("case", SWEEP_KILLS, ids=str)
def test_sweeps_go_on(case: Moment, arena: Arena, swept: Swept) -> None:
    write(arena.folder / "space.yaml", SPACE)
    before = arena.files()
    process = start_sweep(arena.folder)
    while len(list(arena.folder.glob("sweep/trials/*"))) < case.trap["trial"] and process.poll() is None:
        time.sleep(0.01)
    time.sleep(case.seconds)
    process.send_signal(case.trap["signal"])
    _, err = process.communicate(timeout=100)
    assert (process.returncode, "Traceback" in err) == (case.code, False), err
    if case.code > 0:
        assert INTERRUPTED in err, err
    arena.judge_files(before, new=True, unfinished=True)
    resumed = start_sweep(arena.folder, *(["--resume"] if (arena.folder / "sweep").exists() else []))
    out, err = resumed.communicate(timeout=200)
    assert (resumed.returncode, "Traceback" in err) == (0, False), err
    assert outcome_of(arena.folder) == swept.trials
    assert out.splitlines()[-8:] == swept.table
    shutil.rmtree(arena.folder / "sweep")
