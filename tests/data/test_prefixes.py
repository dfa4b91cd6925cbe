from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from recbole_ra.data.prefixes import Prefixes
from recbole_ra.data.table import SequenceTable

sequences_of_items = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=8)


def table_of(sequences: list[list[int]]) -> SequenceTable:
    """A table whose owners are 100, 101, …, so that they are no row numbers."""
    return SequenceTable.from_arrays(
        np.concatenate([np.empty(0, dtype=np.int64), *(np.array(s, dtype=np.int64) for s in sequences)]),
        np.cumsum([0, *(len(s) for s in sequences)]),
        10,
        users=100 + np.arange(len(sequences)),
    )


@given(sequences_of_items, st.integers(1, 15))
def test_all_rows_equal_the_loop(sequences: list[list[int]], max_length: int) -> None:
    prefixes = Prefixes.all_of(table_of(sequences), max_length)
    expected = reference.prefix_rows(sequences, max_length)
    histories = prefixes.items()
    assert len(prefixes) == len(expected)
    assert histories.shape == (len(expected), max((len(row[2]) for row in expected), default=0))
    for r, (sequence, position, history, target) in enumerate(expected):
        assert (prefixes.sequence[r], prefixes.position[r]) == (sequence, position)
        assert prefixes.lengths[r] == len(history)
        assert histories[r].tolist() == history + [0] * (histories.shape[1] - len(history))
        assert prefixes.targets[r] == target
        assert prefixes.users[r] == 100 + sequence
        assert prefixes.table.items[prefixes.flat_position[r]] == target


@given(sequences_of_items, st.integers(1, 15), st.data())
def test_a_selection_holds_the_same_rows(
    sequences: list[list[int]], max_length: int, data: st.DataObject
) -> None:
    every = Prefixes.all_of(table_of(sequences), max_length)
    if len(every) == 0:
        return
    rows = np.array(data.draw(st.lists(st.integers(0, len(every) - 1))), dtype=np.int64)
    part = every[rows]
    np.testing.assert_array_equal(part.targets, every.targets[rows])
    np.testing.assert_array_equal(part.items(max_length), every.items(max_length)[rows])
    np.testing.assert_array_equal(every[1:3].targets, every.targets[1:3])


def test_histories_can_be_given_a_width() -> None:
    prefixes = Prefixes.all_of(table_of([[1, 2, 3, 4]]), 2)
    assert prefixes.items(4).tolist() == [[1, 0, 0, 0], [1, 2, 0, 0], [2, 3, 0, 0]]


@pytest.mark.parametrize("sequences", [[], [[]], [[5]], [[5], [6], []]])
def test_nothing_to_predict(sequences: list[list[int]]) -> None:
    prefixes = Prefixes.all_of(table_of(sequences), 3)
    assert len(prefixes) == 0
    assert prefixes.items().shape == (0, 0)
    assert len(prefixes.targets) == len(prefixes.users) == 0
