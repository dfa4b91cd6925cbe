"""Values of a parameter get places and labels that can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recbole_ra.report.scales import cell_of, distinct, key_of, numeric_scale, scale_of, shown_scales, varying
from recbole_ra.report.sweep import Trial


def trial(number: int, best: float | None, status: str = "finished", **parameters: Any) -> Trial:
    return Trial(f"t{number:04}", parameters, status, best)


def test_values_are_told_apart_and_sorted() -> None:
    assert list(distinct([10, 9.0, 9, "b", True, 1, "a", None]).values()) == [
        "1",
        "9",
        "10",
        "None",
        "True",
        "a",
        "b",
    ]
    assert key_of(1) == key_of(1.0) == key_of(np.int64(1)) != key_of(True)
    assert list(distinct(["original+pattern+regenerated", "$a$"]).values()) == [
        r"\$a\$",
        "original+pat…regenerated",
    ]


def test_scales() -> None:
    log = scale_of([1e-4, 2e-4, 1e-3, 2e-3, 5e-3, 8e-3, 1e-2])
    assert log.ticks == [
        (pytest.approx(place), text)
        for place, text in (
            (-4, "0.0001"),
            (-3.522879, "0.0003"),
            (-3, "0.001"),
            (-2.522879, "0.003"),
            (-2, "0.01"),
        )
    ]
    assert log.height(1e-3) == pytest.approx(0.5)
    linear = scale_of([0, 1, 2, 3, 5, 40, 100])
    assert (linear.log, linear.height(40)) == (False, 0.4)
    assert [text for _, text in linear.ticks] == ["0", "20", "40", "60", "80", "100"]
    assert not scale_of([10, 20, 50, 100, 200, 250, 300]).log
    few = scale_of([1000, 1, 10])
    assert (few.ticks, few.place(1000)) == ([(0, "1"), (1, "10"), (2, "1000")], 2)
    assert [text for _, text in scale_of([f"v{n:02}" for n in range(24)]).ticks] == [
        f"v{n:02}" for n in range(0, 24, 2)
    ]
    single = numeric_scale([0.05])
    assert (single.ticks, single.height(0.05)) == ([(0.05, "0.05")], 0.5)


def test_parameters_that_never_change_are_left_out_unless_all_are() -> None:
    same = [trial(0, 1.0, a=1, b=1, c="x"), trial(1, 2.0, a=2, b=1.0), trial(2, None, "failed", a=3, b=1)]
    assert varying(same) == {"a": {key_of(1): "1", key_of(2): "2", key_of(3): "3"}}
    assert list(shown_scales(same)) == ["a"]
    assert list(shown_scales(same[:1])) == ["a", "b", "c"]
    grid = [trial(4 * i + j, 0.1 + i - j, alpha=i / 10, k=j) for i in range(4) for j in range(4)]
    assert cell_of(grid[6], varying(grid)) == (1, 2)
