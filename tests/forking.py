"""Runs the pipeline in processes of their own, some of which kill themselves at a named point.

An interpreter that has just imported the package waits for requests, one line of JSON each, and forks a
child for every one: the child is as fresh as a new interpreter, without the seconds that importing takes.

The point is ``never``, ``epoch:STAGE:N`` (after epoch N was written), ``batch:STAGE:N`` (before the
N-th batch of that stage), ``best:STAGE:N`` (between the best checkpoint and the last one), or
``block:decoded:N`` (after N blocks of decoded sequences were written).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure

from recbole_ra.pipeline.runner import run
from recbole_ra.regeneration import decoding
from recbole_ra.training.trainer import RaTrainer
from walks import leave_undrawn

LONGEST = 120  # seconds until a child that hangs is ended


class Ended(NamedTuple):
    """What a process left behind; the code is negative where a signal ended it."""

    returncode: int
    stdout: str
    stderr: str

    def outcome(self) -> dict[str, Any]:
        """Results of a run that went well."""
        assert self.returncode == 0, self.stderr
        result: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return result


class Interpreter:
    """A process that forks a child for every run; one run at a time."""

    def __init__(self, hash_seed: int) -> None:
        self.folder = Path()
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(hash_seed)},
        )

    def send(self, point: str, settings: dict[str, Any]) -> None:
        self.folder = Path(settings["output_dir"]).parent / f"process-{self.process.pid}"
        self.folder.mkdir(exist_ok=True)
        request = json.dumps([point, str(self.folder), settings])
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()

    def receive(self) -> Ended:
        assert self.process.stdout is not None
        returncode = int(self.process.stdout.readline())
        return Ended(returncode, *((self.folder / name).read_text() for name in ("stdout", "stderr")))

    def run(self, point: str, settings: dict[str, Any]) -> Ended:
        self.send(point, settings)
        return self.receive()

    def close(self) -> None:
        self.process.communicate()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(kind: str, stage: str, number: int) -> Callable[[Any], None] | None:
    """Put the trap where the point says."""
    if kind == "epoch":

        def after_epoch(entry: Any) -> None:
            if entry["stage"] == stage and entry["epoch"] == number:
                die()

        return after_epoch
    inner_write = decoding.write_arrays
    inner_batch, inner_best = RaTrainer._check_nan, RaTrainer._save_checkpoint
    seen = {"batch": 0, "block": 0}

    def at_batch(self: Any, loss: Any) -> None:
        if self.stage == stage:
            seen["batch"] += 1
            if kind == "batch" and seen["batch"] == number:
                die()
        inner_batch(self, loss)

    def at_best(self: Any, epoch: int, **options: Any) -> None:
        inner_best(self, epoch, **options)
        if self.stage == stage and kind == "best" and epoch == number:
            die()

    def at_block(path: Any, **arrays: Any) -> None:
        inner_write(path, **arrays)
        seen["block"] += 1
        if kind == "block" and seen["block"] == number:
            die()

    decoding.write_arrays = at_block
    RaTrainer._check_nan = at_batch
    RaTrainer._save_checkpoint = at_best
    return None


def work(point: str, folder: str, settings: dict[str, Any]) -> None:
    """Be the child: run in the folder's parent, with the output in the folder."""
    signal.alarm(LONGEST)
    os.chdir(Path(folder).parent)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    callback = None
    if point != "never":
        kind, stage, number = point.split(":")
        callback = arm(kind, stage, int(number))
    outcome = run(on_epoch=callback, **settings)
    print(json.dumps({"test": outcome.test, "valid": outcome.valid, "reused": outcome.reused}))


def serve() -> None:
    for request in sys.stdin:
        child = os.fork()
        if child == 0:
            work(*json.loads(request))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    import torch._dynamo  # otherwise the first optimizer of every child does it, for a second

    torch.set_num_threads(1)
    Figure.savefig = leave_undrawn
    serve()
