"""Odd surroundings of a process: pipes that close, streams that are not there, encodings, limits, folders.

These run in interpreters of their own, as streams and environment are what matters.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hostile.arena import (
    EVERYTHING,
    GOOD,
    PLAIN,
    REGENERATE,
    Arena,
    Case,
    judge,
    result_of,
    write,
)
from hostile.nursery import Ended

pytestmark = pytest.mark.slow

COMMAND = f"{shlex.quote(sys.executable)} -m recbole_ra"
STRICT = f"{shlex.quote(sys.executable)} -W error -m recbole_ra"


def unicode_shop(folder: Path) -> None:
    write(folder / "dataset" / "läden漢🙂" / "läden漢🙂.inter", GOOD)


def sales(folder: Path) -> None:
    write(folder / "sales.csv", "user,item,time\na,b,1\nü,漢,2\n")


UNICODE = PLAIN.replace("=shop", "=läden漢🙂")
SHELL: list[Case] = [
    Case("process surroundings", name, words, line, code, *rest)
    for name, words, line, code, *rest in (
        ("help into a closed pipe", f"{COMMAND} --help | head -5", "usage: recbole-ra", 0),
        ("all help into a closed pipe", f"{COMMAND} --help=all | head -1", "usage: recbole-ra", 0),
        ("version into nothing", f"{COMMAND} --version | true", "", 0),
        ("run into nothing", f"{COMMAND} {PLAIN} | true", "result: runs/", 0),
        ("prepare into nothing", f"{COMMAND} prepare sales.csv --name=made | true", "", 0, sales),
        ("regenerate into nothing", f"{COMMAND} {REGENERATE} | true", "result: runs/", 0),
        ("messages into nothing", f"{COMMAND} {PLAIN} 2> >(true)", "unmasked", 0),
        ("everything into nothing", f"({COMMAND} {PLAIN}) 2>&1 | true", "", 0),
        ("mistake, messages into nothing", f"{COMMAND} {PLAIN} --seed=x 2> >(true)", "", 2),
        ("no standard output", f"{COMMAND} {PLAIN} >&-", "result: runs/", 0),
        ("no standard error", f"{COMMAND} {PLAIN} 2>&-", "unmasked", 0),
        ("no streams at all", f"{COMMAND} {PLAIN} <&- >&- 2>&-", "", 0),
        ("mistake, no standard error", f"{COMMAND} {PLAIN} --seed=x 2>&-", "", 2),
        ("no standard output for help", f"{COMMAND} --help >&-", "", 0),
        ("help on a full disk", f"{COMMAND} --help > /dev/full", "standard output: No space left on device", 2),
        ("version on a full disk", f"{COMMAND} --version > /dev/full", "standard output: No space left on device", 2),
        ("table on a full disk", f"{COMMAND} {PLAIN} > /dev/full", "standard output: No space left on device", 2),
        ("messages on a full disk", f"{COMMAND} {PLAIN} 2> /dev/full", "unmasked", 0),
        ("C", f"LANG=C LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {COMMAND} {PLAIN}", "unmasked", 0),
        ("ASCII", f"PYTHONIOENCODING=ascii {COMMAND} {PLAIN}", r"\| unmasked \|", 0),
        ("Latin-1", f"PYTHONIOENCODING=latin-1 {COMMAND} {PLAIN}", r"\| unmasked \|", 0),
        ("ASCII, Unicode name", f"PYTHONIOENCODING=ascii {COMMAND} {UNICODE}", r"result: runs/SASRec-l\\xe4den", 0, unicode_shop),
        ("C, Unicode name", f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {COMMAND} {UNICODE}", "unmasked", 0, unicode_shop),
        ("Latin-1, mistake", f"PYTHONIOENCODING=latin-1 {COMMAND} {PLAIN} --seed=漢", "seed=.* must be an integer", 2),
        ("ASCII help", f"PYTHONIOENCODING=ascii {COMMAND} --help", "usage: recbole-ra", 0),
        ("ASCII, regenerate", f"PYTHONIOENCODING=ascii {COMMAND} {REGENERATE}", "regenerated", 0),
        ("Unicode name in a title", f"{COMMAND} {UNICODE}", "result: runs/SASRec-läden漢🙂", 0, unicode_shop),
        ("warnings are errors, help", f"{STRICT} --help", "usage: recbole-ra", 0),
        ("warnings are errors, run", f"{STRICT} {PLAIN}", "unmasked", 0),
        ("warnings are errors, regenerated", f"{STRICT} {EVERYTHING}", "unmasked", 0),
        ("warnings are errors, regenerate", f"{STRICT} {REGENERATE}", "regenerated", 0),
        ("warnings are errors, prepare", f"{STRICT} prepare sales.csv --name=made", "2 users", 0, sales),
        ("warnings are errors, mistake", f"{STRICT} {PLAIN} --seed=x", "seed='x' must be an integer", 2),
        ("no home", f"env -u HOME {COMMAND} {PLAIN}", "unmasked", 0),
        ("home not writable", f"HOME=/proc MPLCONFIGDIR=/proc/none {COMMAND} {PLAIN}", "unmasked", 0),
        ("working directory not writable", f"cd /proc && {COMMAND} {PLAIN} --data_path=$OLDPWD/dataset --output_dir=$OLDPWD/runs --checkpoint_dir=$OLDPWD/saved", "unmasked", 0),
        ("results not writable", f"{COMMAND} {PLAIN} --output_dir=/proc/none", "/proc/none.*(no permission|no folder can be made)", 2),
        ("few open files", f"ulimit -n 40; {COMMAND} {PLAIN}", "unmasked", 0),
    )
]  # fmt: skip


def through_shell(arena: Arena, words: str) -> Ended:
    """Run a line of a shell; the code is that of the command, not of who reads."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    done = subprocess.run(
        ["bash", "-c", f"{words}; exit ${{PIPESTATUS[0]}}"],
        cwd=arena.folder, env=environment, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    return Ended(
        done.returncode, *(text.decode(errors="replace") for text in (done.stdout, done.stderr)), 0.0
    )


@pytest.mark.parametrize("case", SHELL, ids=str)
def test_surroundings(case: Case, arena: Arena) -> None:
    case.make(arena.folder)
    before = arena.files()
    ended = through_shell(arena, case.words)
    if case.code and not case.line:  # nobody can read it
        assert (ended.code, "Traceback" in ended.err) == (case.code, False), ended
    else:
        judge(ended, case.code, case.line)
    if "-W error" not in case.words:
        assert "Warning" not in ended.err, ended.err
    arena.judge_files(before, new=True)
    assert not (arena.folder / "log_tensorboard").exists()
    run = [path for path in arena.folder.glob("runs/*/result.json")]
    ran = case.code == 0 and not any(word in case.words for word in ("--help", "--version", "prepare"))
    assert bool(run) == (ran or "table on a full" in case.name), case


LIMITS = [2_000, 6_000, 10_000, 20_000, 30_000, 40_000, 60_000, 80_000]


@pytest.mark.parametrize("case", [
    Case("full disk", f"files of {limit} bytes", EVERYTHING, "", limit) for limit in LIMITS
], ids=str)  # fmt: skip
def test_files_cannot_grow(case: Case, arena: Arena) -> None:
    """With ``ulimit -f`` a run ends in one line; without it, the same goes on to the usual result."""
    before = arena.files()
    ended = arena.run(case.words, **{"largest file": case.code})
    if ended.code:
        judge(ended, 2, r"(no space left on the disk|[Ff]ile too large)")
    arena.judge_files(before, new=True, unfinished=True)
    left = [path.name for path in arena.folder.rglob(".*") if path.suffix in (".tmp", ".old")]
    assert not left
    judge(arena.run(f"{EVERYTHING} --resume"), 0, "result: runs/")
    whole = result_of(arena.folder)
    shutil.rmtree(arena.folder / "saved")
    judge(arena.run(EVERYTHING), 0, "result: runs/")
    assert result_of(arena.folder) == whole


def test_the_smallest_limit_is_too_small_and_the_largest_is_not(arena: Arena) -> None:
    assert arena.run(EVERYTHING, **{"largest file": LIMITS[0]}).code == 2
    assert arena.run(EVERYTHING, **{"largest file": 1 << 30}).code == 0


SIZES = [16, 64, 128, 200, 300]


@pytest.mark.parametrize("case", [
    Case("full disk", f"store on {size} KiB", f"{EVERYTHING} --checkpoint_dir=small/saved", "", size) for size in SIZES
], ids=str)  # fmt: skip
def test_a_small_disk(case: Case, arena: Arena) -> None:
    """A run whose store is full ends in one line, and goes on where there is room."""
    place = arena.folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={case.code}k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        ended = arena.run(case.words)
        judge(ended, 2, "small/saved.*: no space left on the disk; free some and run again")
        left = [path.name for path in arena.folder.rglob(".*") if path.suffix in (".tmp", ".old")]
        assert not left
        subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
        judge(arena.run(f"{case.words} --resume"), 0, "result: runs/")
    finally:
        subprocess.run(["umount", str(place)], check=True)
    resumed = result_of(arena.folder)
    judge(arena.run(EVERYTHING), 0, "result: runs/")
    assert result_of(arena.folder) == resumed
