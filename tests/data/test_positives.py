from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.data.positives import SameTarget


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(0, 5))
def test_same_target_draws_another_row_if_there_is_one(targets: list[int], seed: int) -> None:
    rng, wanted = np.random.default_rng(seed), np.array(targets)
    rows = rng.permutation(np.repeat(np.arange(len(targets)), 2))
    drawn = SameTarget(wanted).draw(rows, rng)
    np.testing.assert_array_equal(wanted[drawn], wanted[rows])
    alone = np.array([targets.count(target) == 1 for target in targets])
    np.testing.assert_array_equal(drawn == rows, alone[rows])


@pytest.mark.parametrize("row", [0, 3, 5])
def test_same_target_draws_evenly(row: int) -> None:
    targets = np.array([7, 8, 7, 7, 9, 7, 7])
    others = [r for r in (0, 2, 3, 5, 6) if r != row]
    drawn = SameTarget(targets).draw(np.full(8000, row), np.random.default_rng(1))
    count = Counter(drawn.tolist())
    assert sorted(count) == others
    # 2000 expected of each, standard deviation 39.
    assert all(abs(count[other] - 2000) < 200 for other in others)
