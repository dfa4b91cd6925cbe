"""Runs commands in children of an interpreter that has imported everything, so that each takes moments.

The interpreter waits for requests, one line of JSON each: a list of children to start at once. It answers
with a line of their process ids, and once all have ended with a line of their exit codes. A child says what
``recbole-ra`` with its words says, in a folder of its own, perhaps with limits, and perhaps with a trap:
``{"call": "module:name", "stage": "RAFT", "number": 3, "signal": 9}`` sends it the signal in the third call
that a trainer of that stage makes; with ``"call": "file operation"`` the third time that it opens, renames,
makes or removes a file; with ``"call": "time"`` after so many seconds of its CPU.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

LONGEST = 120  # seconds until a child that hangs is ended
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


class Ended(NamedTuple):
    """What a process left behind; the code is negative where a signal ended it."""

    code: int
    out: str
    err: str
    seconds: float
    """Of its CPU."""


class Nursery:
    """The interpreter; one request at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "3"},
        )

    def start(self, children: list[dict[str, Any]]) -> list[int]:
        """Start children, each with ``words`` and ``folder``; returns their process ids."""
        assert self.process.stdin is not None
        self.children = children
        for number, child in enumerate(children):
            child.setdefault("streams", str(Path(child["folder"]).with_suffix(f".streams-{number}")))
        self.process.stdin.write(json.dumps(children) + "\n")
        self.process.stdin.flush()
        pids: list[int] = self._answer()
        return pids

    def wait(self) -> list[Ended]:
        """Wait for the children that were started."""
        return [
            Ended(code, *(Path(child["streams"] + end).read_text() for end in (".out", ".err")), seconds)
            for (code, seconds), child in zip(self._answer(), self.children, strict=True)
        ]

    def run(self, words: list[str], folder: Path, **surroundings: Any) -> Ended:
        """Run one command in a folder."""
        self.start([{"words": words, "folder": str(folder), **surroundings}])
        return self.wait()[0]

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        return answer


def set_trap(trap: dict[str, Any]) -> None:
    """Have a signal sent at the moment that the trap says."""
    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1
        if passed == trap["number"]:
            os.kill(os.getpid(), trap["signal"])

    if trap["call"] == "time":
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), trap["signal"]))
        signal.setitimer(signal.ITIMER_PROF, trap["number"])
        return
    if trap["call"] == "file operation":
        sys.addaudithook(lambda event, _: count() if event in OPERATIONS else None)
        return
    module, _, names = trap["call"].partition(":")
    *owners, name = names.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def trapped(*given: Any, **named: Any) -> Any:
        if trap.get("stage") in (None, getattr(given[0] if given else None, "stage", None)):
            count()
        return inner(*given, **named)

    setattr(owner, name, trapped)


def be_child(child: dict[str, Any]) -> int:
    """Run the command; returns the exit code."""
    signal.alarm(LONGEST)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(child["folder"])
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(f"{child['streams']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    if "largest file" in child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (child["largest file"], child["largest file"]))
    from recbole_ra.cli import main

    if "trap" in child:
        set_trap(child["trap"])
    try:
        return main(child["words"])
    except SystemExit as ended:  # argparse
        return int(ended.code or 0)


def ended(pid: int) -> tuple[int, float]:
    """Wait for a child; returns its code and the seconds of CPU that it took."""
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def serve() -> None:
    for request in sys.stdin:
        pids = []
        for child in json.loads(request):
            pid = os.fork()
            if pid == 0:
                code = be_child(child)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)  # taking down an interpreter that has imported torch takes a second
            pids.append(pid)
        print(json.dumps(pids), flush=True)
        print(json.dumps([ended(pid) for pid in pids]), flush=True)


if __name__ == "__main__":
    import torch
    import torch._dynamo  # otherwise the first optimizer of every child does it, for a second
    from matplotlib.figure import Figure

    import recbole_ra.pipeline.runner
    import recbole_ra.prepare.interactions
    import recbole_ra.tuning.options
    import recbole_ra.tuning.workers  # noqa: F401
    from walks import leave_undrawn

    torch.set_num_threads(1)
    Figure.savefig = leave_undrawn
    gc.freeze()
    serve()
