from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from recbole_ra.core.errors import SettingsError
from recbole_ra.core.setting import raise_problems, read, setting


@dataclass(frozen=True)
class Sample:
    count: int = setting(3, "how many", low=1)
    share: float = setting(0.5, "which part", low=0, high=1)
    rate: float = setting(1.0, "how fast", low=0)
    kind: str = setting("a", "which", choices=("a", "b"))
    on: bool = setting(True, "whether")
    path: str | None = setting(None, "where")


def test_defaults() -> None:
    problems: list[str] = []
    assert read(Sample, {"other": 1}, problems) == Sample()
    assert problems == []


def test_values_are_taken() -> None:
    given = {"count": 9, "share": 1, "rate": 2, "kind": "b", "on": False, "path": "x"}
    problems: list[str] = []
    found = read(Sample, given, problems)
    assert dataclasses.asdict(found) == given
    assert isinstance(found.share, float)
    assert problems == []


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("count", 0, "count=0 must be >= 1"),
        ("count", 1.0, "count=1.0 must be an integer"),
        ("count", True, "count=True must be an integer"),
        ("count", None, "count=None must be an integer"),
        ("share", 1.1, "share=1.1 must be between 0 and 1"),
        ("share", float("nan"), "share=nan must be between 0 and 1"),
        ("share", "0.5", "share='0.5' must be a number"),
        ("rate", float("inf"), "rate=inf must be finite"),
        ("share", False, "share=False must be a number"),
        ("kind", "c", "kind='c' must be one of a, b"),
        ("kind", 1, "kind=1 must be text"),
        ("on", 1, "on=1 must be true or false"),
        ("on", "true", "on='true' must be true or false"),
        ("path", 5, "path=5 must be text"),
    ],
)
def test_what_is_wrong_is_said_and_the_default_kept(key: str, value: Any, problem: str) -> None:
    problems: list[str] = []
    assert read(Sample, {key: value, "on": False} if key != "on" else {key: value}, problems) == Sample(
        on=key == "on"
    )
    assert problems == [problem]


def test_problems_become_one_line() -> None:
    raise_problems([])
    with pytest.raises(SettingsError, match=r"^a=1 is wrong; b=2 is wrong$"):
        raise_problems(["a=1 is wrong", "b=2 is wrong"])
