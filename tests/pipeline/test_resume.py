"""Runs in processes of their own: killed, resumed, and two at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forking import Interpreter


@pytest.fixture(scope="module")
def interpreters() -> Iterator[tuple[Interpreter, Interpreter]]:
    """Two whose sets of strings are ordered differently, as in two starts of a command."""
    both = Interpreter(hash_seed=1), Interpreter(hash_seed=2)
    yield both
    for interpreter in both:
        interpreter.close()


@pytest.fixture(scope="module")
def first(interpreters: tuple[Interpreter, Interpreter]) -> Interpreter:
    return interpreters[0]


@pytest.fixture(scope="module")
def second(interpreters: tuple[Interpreter, Interpreter]) -> Interpreter:
    return interpreters[1]


@pytest.fixture(scope="module")
def unbroken(shared_settings: dict[str, Any], first: Interpreter) -> dict[str, Any]:
    return first.run("never", {**shared_settings, "model": "RaSASRec"}).outcome()


@pytest.mark.parametrize(
    ("point", "goes_on"),
    [
        ("batch:SASRec:3", ""),
        ("best:SASRec:1", "SASRec: continues after epoch 0\n"),
        ("epoch:SASRec:2", "SASRec: continues after epoch 2\n"),
        ("batch:RAFT:7", "RAFT: continues after epoch 0\n"),
        ("epoch:RAFT:2", "RAFT: continues after epoch 2\n"),
    ],
)
def test_killed_and_resumed_equals_unbroken(
    point: str,
    goes_on: str,
    settings: dict[str, Any],
    unbroken: dict[str, Any],
    first: Interpreter,
    second: Interpreter,
) -> None:
    settings |= {"model": "RaSASRec"}
    killed = first.run(point, settings)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list(Path(settings["output_dir"]).glob("*/result.json"))
    ended = second.run("never", {**settings, "resume": True})
    resumed = ended.outcome()
    assert goes_on in ended.stderr
    assert ("continues" in ended.stderr) == bool(goes_on)
    assert resumed["test"] == unbroken["test"]
    assert resumed["valid"] == unbroken["valid"]


def test_two_kills_in_one_run(
    settings: dict[str, Any], unbroken: dict[str, Any], first: Interpreter, second: Interpreter
) -> None:
    settings |= {"model": "RaSASRec"}
    assert first.run("epoch:SASRec:1", settings).returncode == -signal.SIGKILL
    settings |= {"resume": True}
    assert second.run("batch:RAFT:2", settings).returncode == -signal.SIGKILL
    resumed = first.run("never", settings).outcome()
    assert resumed["test"] == unbroken["test"]
    assert "backbone" in resumed["reused"]


@pytest.fixture(scope="module")
def unbroken_regeneration(shared_regenerating: dict[str, Any], first: Interpreter) -> dict[str, Any]:
    return first.run("never", {**shared_regenerating, "model": "SASRec"}).outcome()


@pytest.mark.parametrize(
    ("point", "goes_on"),
    [
        ("batch:teacher:2", ""),
        ("epoch:teacher:0", "teacher: continues after epoch 0\n"),
        ("batch:DR4SR:3", "teacher: reused"),
        ("best:DR4SR:1", "DR4SR: continues after epoch 0\n"),
        ("block:decoded:1", "regenerator: reused"),
    ],
)
def test_a_killed_regeneration_goes_on(
    point: str,
    goes_on: str,
    regenerating: dict[str, Any],
    unbroken_regeneration: dict[str, Any],
    first: Interpreter,
    second: Interpreter,
) -> None:
    settings = {**regenerating, "model": "SASRec"}
    killed = first.run(point, settings)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = second.run("never", {**settings, "resume": True})
    resumed = ended.outcome()
    assert goes_on in ended.stderr
    assert resumed["test"] == unbroken_regeneration["test"]
    assert resumed["valid"] == unbroken_regeneration["valid"]


def test_two_runs_at_once_make_each_stage_once(
    settings: dict[str, Any], interpreters: tuple[Interpreter, Interpreter]
) -> None:
    for interpreter in interpreters:
        interpreter.send("never", {**settings, "model": "RaSASRec"})
    both = [interpreter.receive() for interpreter in interpreters]
    results = [ended.outcome() for ended in both]
    assert results[0]["test"] == results[1]["test"]
    assert sorted(results[0]["reused"] + results[1]["reused"]) == ["backbone", "bank", "raft"]
    assert any("another run makes it; waiting" in ended.stderr for ended in both)
