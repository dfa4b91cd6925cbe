"""Text reaches whatever stands behind the streams, or the program ends in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_ra.core.console import displayable

RUN = f"{sys.executable} -m recbole_ra"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash that ends with the exit code of its first command."""
    line = f"{command}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        env={**ENVIRONMENT, **environment},
        check=False,
        text=True,
        errors="replace",
    )


ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "HOME": "/"}


@pytest.mark.parametrize(
    "command",
    [
        f"{RUN} --help=all | head -1",
        f"{RUN} --version | true",
        f"{RUN} --version >&-",
        f"{RUN} --version <&- >&- 2>&-",
    ],
)
def test_who_has_seen_enough_may_leave(command: str) -> None:
    done = shell(command)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_device_is_one_line() -> None:
    done = shell(f"{RUN} --version > /dev/full")
    assert (done.returncode, done.stderr) == (2, "recbole-ra: standard output: No space left on device\n")
    done = shell(f"{RUN} --model=SASRek --dataset=x 2> /dev/full")
    assert done.returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_mistakes_in_any_encoding(encoding: str) -> None:
    done = shell(f"{RUN} --model=Möchte --dataset=☃", PYTHONIOENCODING=encoding, LANG="C.UTF-8")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_tables_lose_their_lines_where_there_are_none() -> None:
    table = "┏━━┳━┓\n┃ a│–│\n└──┴─┘"
    assert displayable(table, "utf-8") == table
    assert displayable(table, "ascii") == "+--+-+\n| a|-|\n+--+-+"
