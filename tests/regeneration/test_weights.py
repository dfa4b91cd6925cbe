"""What a regenerated row counts follows from how often it was found or written."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_ra.data.table import Origin
from recbole_ra.regeneration.merge import RegeneratedData, merge
from recbole_ra.regeneration.weights import row_weights
from tables import table_of


def example() -> RegeneratedData:
    original = table_of([[1, 2, 3], [2, 1]], 6)
    patterns = table_of([[3, 2], [1, 3, 4]], 6, origin=Origin.PATTERN)
    decoded = table_of([[4, 1], [4, 1], [4, 1], [2, 3]], 6)
    return merge(original, patterns, decoded, np.arange(4), support=np.array([2, 5]))


def test_a_pattern_counts_by_its_support_and_a_target_of_one_on_average() -> None:
    weights = row_weights(example(), "support")
    assert weights is not None
    # Targets 1 and 2, supports 2 and 5: 3 targets over 1 * 2 + 2 * 5.
    np.testing.assert_allclose(weights, [1, 1, 2 * 3 / 12, 5 * 3 / 12, 1, 1])


def test_a_decoded_row_counts_by_those_who_wrote_it() -> None:
    weights = row_weights(example(), "multiplicity")
    assert weights is not None
    np.testing.assert_allclose(weights, [1, 1, 1, 1, 3 * 2 / 4, 1 * 2 / 4])


@pytest.mark.parametrize("kind", ["support", "multiplicity", "both"])
def test_an_origin_weighs_what_it_weighed_before(kind: str) -> None:
    data = example()
    weights = row_weights(data, kind)
    assert weights is not None
    targets = data.table.lengths - 1
    for origin in Origin:
        rows = data.table.origin == origin
        assert (weights * targets)[rows].sum() == pytest.approx(targets[rows].sum())
    assert row_weights(data, "none") is None
    assert row_weights(data.keep(["original"]), kind) == pytest.approx(np.ones(2))
