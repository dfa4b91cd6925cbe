"""A run that is killed and resumed ends bit-identical to an unbroken one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(point: str, settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), point, json.dumps({"model": "RaSASRec", **settings})],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=settings["output_dir"].removesuffix("runs"),
        check=False,
    )


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def unbroken(shared_settings: dict[str, Any]) -> dict[str, Any]:
    return outcome(start("never", shared_settings))


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
    point: str, goes_on: str, settings: dict[str, Any], unbroken: dict[str, Any]
) -> None:
    killed = start(point, settings)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list(Path(settings["output_dir"]).glob("*/result.json"))
    second = start("never", {**settings, "resume": True})
    resumed = outcome(second)
    assert goes_on in second.stderr
    assert ("continues" in second.stderr) == bool(goes_on)
    assert resumed["test"] == unbroken["test"]
    assert resumed["valid"] == unbroken["valid"]


def test_two_kills_in_one_run(settings: dict[str, Any], unbroken: dict[str, Any]) -> None:
    assert start("epoch:SASRec:1", settings).returncode == -signal.SIGKILL
    assert start("batch:RAFT:2", {**settings, "resume": True}).returncode == -signal.SIGKILL
    resumed = outcome(start("never", {**settings, "resume": True}))
    assert resumed["test"] == unbroken["test"]
    assert "backbone" in resumed["reused"]


@pytest.fixture(scope="module")
def unbroken_regeneration(shared_regenerating: dict[str, Any]) -> dict[str, Any]:
    return outcome(start("never", {**shared_regenerating, "model": "SASRec"}))


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
    point: str, goes_on: str, regenerating: dict[str, Any], unbroken_regeneration: dict[str, Any]
) -> None:
    settings = {**regenerating, "model": "SASRec"}
    killed = start(point, settings)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    second = start("never", {**settings, "resume": True})
    resumed = outcome(second)
    assert goes_on in second.stderr
    assert resumed["test"] == unbroken_regeneration["test"]
    assert resumed["valid"] == unbroken_regeneration["valid"]
