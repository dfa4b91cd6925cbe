from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
import tables
from recbole_ra.data.table import Origin, Prefixes, SequenceTable, gather_windows
from tables import lists_of

sequences_of_items = st.lists(st.lists(st.integers(1, 9), max_size=7), max_size=6)
longer_sequences = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=8)


def table_of(sequences: list[list[int]], **columns: Any) -> SequenceTable:
    times = 100.0 + np.arange(sum(map(len, sequences)))
    return tables.table_of(sequences, 10, times=times, **columns)


@given(sequences_of_items)
def test_a_table_holds_its_sequences(sequences: list[list[int]]) -> None:
    table = table_of(sequences)
    assert lists_of(table) == sequences
    assert len(table) == len(sequences)
    assert table.lengths.tolist() == [len(sequence) for sequence in sequences]
    assert table.items.dtype == np.int32
    assert table.users.tolist() == list(range(len(sequences)))
    assert (table.origin == Origin.ORIGINAL).all()


@given(sequences_of_items, st.data())
def test_heads_equal_the_loop(sequences: list[list[int]], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=len(sequences), max_size=len(sequences)))
    table = table_of(sequences, users=7 + np.arange(len(sequences)), origin=Origin.PATTERN)
    head = table.head(np.array(lengths, dtype=np.int64))
    assert lists_of(head) == [sequence[:length] for sequence, length in zip(sequences, lengths, strict=True)]
    kept = [
        time
        for start, sequence, length in zip(table.offsets, sequences, lengths, strict=False)
        for time in range(start, start + min(len(sequence), length))
    ]
    assert head.times is not None
    assert head.times.tolist() == [100.0 + time for time in kept]
    np.testing.assert_array_equal(head.users, table.users)
    np.testing.assert_array_equal(head.origin, table.origin)
    assert head.n_items == table.n_items


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.data())
def test_windows_equal_the_loop(flat: list[int], data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.tuples(st.integers(0, len(flat) - 1), st.integers(0, 9)), max_size=8))
    cuts = [(start, min(length, len(flat) - start)) for start, length in cuts]
    start, length = (
        np.array(part, dtype=np.int64) for part in (zip(*cuts, strict=True) if cuts else ([], []))
    )
    longest = max((length for _, length in cuts), default=0)
    for width in (None, longest, longest + 3):
        found = gather_windows(np.array(flat, dtype=np.int32), start, length, width)
        columns = longest if width is None else width
        assert found.dtype == np.int64
        assert found.shape == (len(cuts), columns)
        assert found.tolist() == [flat[a : a + n] + [0] * (columns - n) for a, n in cuts]


def test_windows_keep_the_type_of_what_is_cut() -> None:
    found = gather_windows(np.array([0.5, 1.5]), np.array([0, 1]), np.array([2, 1]))
    assert found.tolist() == [[0.5, 1.5], [1.5, 0.0]]


@pytest.mark.parametrize(
    ("items", "offsets", "words"),
    [
        ([1, 2], [0, 1], "offsets must rise from 0 to 2"),
        ([1, 2], [1, 2], "offsets must rise from 0 to 2"),
        ([1, 2], [0, 2, 1, 2], "offsets must rise from 0 to 2"),
        ([1, 2], [], "offsets must rise from 0 to 2"),
        ([0, 2], [0, 2], "item ids must lie in 1..9, got 0..2"),
        ([1, 10], [0, 2], "item ids must lie in 1..9, got 1..10"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(items: list[int], offsets: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SequenceTable.from_arrays(np.array(items), np.array(offsets, dtype=np.int64), 10)


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 12))
def test_windows_cut_evenly_and_lose_nothing(lengths: list[int], longest: int) -> None:
    rng = np.random.default_rng(0)
    table = table_of([rng.integers(1, 10, n).tolist() for n in lengths], users=np.arange(len(lengths)) * 7)
    pieces = table.windows(longest)
    assert pieces.items is table.items
    assert pieces.lengths.max(initial=0) <= longest
    for user, length in zip(table.users, lengths, strict=True):
        own = pieces.lengths[pieces.users == user]
        assert own.sum() == length
        assert len(own) == -(-length // longest)
        assert own.max(initial=0) - own.min(initial=longest) <= 1
    assert pieces.offsets[0] == 0
    assert (np.diff(pieces.offsets) > 0).all()


def test_fingerprints_tell_tables_apart() -> None:
    one = table_of([[1, 2], [3]])
    assert one.fingerprint() == table_of([[1, 2], [3]]).fingerprint()
    others = [
        table_of([[1], [2, 3]]),
        table_of([[1, 2], [4]]),
        table_of([[1, 2], [3]], users=np.array([1, 0])),
        table_of([[1, 2], [3]], origin=Origin.PATTERN),
        SequenceTable.from_arrays(one.items, one.offsets, 10),
        SequenceTable.from_arrays(one.items, one.offsets, 11, times=one.times),
    ]
    assert len({table.fingerprint() for table in [one, *others]}) == 7


@given(longer_sequences, st.integers(1, 15))
def test_all_rows_equal_the_loop(sequences: list[list[int]], max_length: int) -> None:
    prefixes = Prefixes.all_of(table_of(sequences, users=100 + np.arange(len(sequences))), max_length)
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


@given(longer_sequences, st.integers(1, 15), st.data())
def test_a_selection_holds_the_same_rows(
    sequences: list[list[int]], max_length: int, data: st.DataObject
) -> None:
    every = Prefixes.all_of(table_of(sequences, users=100 + np.arange(len(sequences))), max_length)
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
    prefixes = Prefixes.all_of(table_of(sequences, users=100 + np.arange(len(sequences))), 3)
    assert len(prefixes) == 0
    assert prefixes.items().shape == (0, 0)
    assert len(prefixes.targets) == len(prefixes.users) == 0
