from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
import tables
from recbole_ra.core.setting import read
from recbole_ra.data.table import ORIGINS, Origin, SequenceTable
from recbole_ra.regeneration.merge import RegeneratedData, concatenate, merge, row_codes, take_rows
from recbole_ra.settings.declared import RegenerationSettings
from tables import lists_of

N_ITEMS = 6

# Few items and short rows: equal ones are common.
some_rows = st.lists(st.lists(st.integers(1, 3), max_size=4), max_size=10)


def table_of(
    rows: list[list[int]], users: list[int] | None = None, origin: Origin = Origin.ORIGINAL
) -> SequenceTable:
    return tables.table_of(rows, N_ITEMS, users=users, origin=origin)


def patterns_of(rows: list[list[int]]) -> SequenceTable:
    return table_of(rows, [-1] * len(rows), Origin.PATTERN)


def rows_of(data: RegeneratedData) -> list[tuple]:
    origin, users = data.table.origin.tolist(), data.table.users.tolist()
    return list(zip(origin, users, data.latent.tolist(), lists_of(data.table), strict=True))


def example() -> RegeneratedData:
    original = table_of([[1, 2, 3], [4], [1, 2, 3], [2, 1]], [7, 8, 9, 5])
    patterns = patterns_of([[2, 1], [1, 3]])
    decoded = table_of([[3, 1], [1, 3], [3, 1], [2, 3], [5]], [9, 9, 7, 5, 5])
    return merge(original, patterns, decoded, np.array([0, 1, 1, 2, 0]))


def test_known_answer() -> None:
    assert rows_of(example()) == [
        (Origin.ORIGINAL, 7, -1, [1, 2, 3]),
        (Origin.ORIGINAL, 9, -1, [1, 2, 3]),
        (Origin.ORIGINAL, 5, -1, [2, 1]),
        (Origin.PATTERN, -1, -1, [1, 3]),
        (Origin.REGENERATED, 9, 0, [3, 1]),
        (Origin.REGENERATED, 5, 2, [2, 3]),
    ]


def test_decoded_rows_are_compared_among_themselves_alone_as_released() -> None:
    original = table_of([[1, 2, 3], [2, 1]])
    patterns = patterns_of([[2, 1], [1, 3]])
    decoded = table_of([[3, 1], [1, 3], [3, 1], [2, 1], [5]], [9, 9, 7, 5, 5])
    united = merge(original, patterns, decoded, np.array([0, 1, 1, 2, 0]), deduplicate="decoded")
    assert [(row[0], row[3]) for row in rows_of(united)] == [
        (Origin.ORIGINAL, [1, 2, 3]),
        (Origin.ORIGINAL, [2, 1]),
        (Origin.PATTERN, [2, 1]),
        (Origin.PATTERN, [1, 3]),
        (Origin.REGENERATED, [3, 1]),
        (Origin.REGENERATED, [1, 3]),
        (Origin.REGENERATED, [2, 1]),
    ]


def test_a_row_knows_its_support_or_how_often_it_was_written() -> None:
    original = table_of([[1, 2, 3], [1, 2, 3]])
    patterns = patterns_of([[2, 1], [1, 3]])
    decoded = table_of([[3, 1], [1, 3], [3, 1], [2, 3], [3, 1]], [9, 9, 7, 5, 5])
    data = merge(original, patterns, decoded, np.arange(5), support=np.array([4, 7]))
    assert data.count.tolist() == [1, 1, 4, 7, 3, 1]
    assert data.keep_repeated(1).count.tolist() == data.count.tolist()
    assert data.keep_repeated(3).count.tolist() == [1, 1, 4, 7, 3]
    assert data.keep(["pattern"]).count.tolist() == [4, 7]


@given(some_rows, some_rows, some_rows, st.integers(1, 3))
def test_equals_naive(
    original: list[list[int]], patterns: list[list[int]], decoded: list[list[int]], copies: int
) -> None:
    users = [100 + row for row in range(len(decoded))]
    latent = np.arange(len(decoded)) % 5
    data = merge(table_of(original), patterns_of(patterns), table_of(decoded, users), latent)
    rows = [
        *((Origin.ORIGINAL, user, -1, row) for user, row in enumerate(original)),
        *((Origin.PATTERN, -1, -1, row) for row in patterns),
        *((Origin.REGENERATED, *about) for about in zip(users, latent.tolist(), decoded, strict=True)),
    ]
    repeated = data.repeat_originals(copies)
    assert rows_of(repeated) == reference.unite(rows, copies)
    assert rows_of(repeated.originals_once(copies)) == rows_of(data)


@given(some_rows)
def test_numbers_of_rows_are_dense_and_equal_exactly_for_equal_rows(rows: list[list[int]]) -> None:
    codes = row_codes(table_of(rows)).tolist()
    assert sorted(set(codes)) == list(range(len(set(codes))))
    for code, row in zip(codes, rows, strict=True):
        assert [other == code for other in codes] == [other == row for other in rows]


@given(some_rows, st.data())
def test_rows_are_taken_in_the_order_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12)) if rows else []
    taken = take_rows(table_of(rows), np.array(chosen, dtype=np.int64))
    assert lists_of(taken) == [rows[row] for row in chosen]
    assert taken.users.tolist() == chosen


def test_originals_alone_and_repeated() -> None:
    original = table_of([[1, 2], [3], [1, 2]])
    assert rows_of(merge(original, None, None, None)) == [(0, 0, -1, [1, 2]), (0, 2, -1, [1, 2])]
    united = merge(original, patterns_of([[1, 2], [2, 2]]), None, None)
    assert [row[1] for row in rows_of(united.repeat_originals(2))] == [0, 2, 0, 2, -1]
    for copies in (0, 3):
        with pytest.raises(ValueError, match=f"2 original rows are not {copies} copies of the same ones"):
            united.originals_once(copies)


def test_nothing_at_all() -> None:
    empty = merge(table_of([]), patterns_of([]), table_of([]), np.zeros(0, dtype=np.int64))
    assert rows_of(empty) == []


def test_keep_selects_origins_and_keeps_the_order() -> None:
    data = example()
    everything = rows_of(data)
    for kept in ([Origin.PATTERN], {Origin.REGENERATED, Origin.ORIGINAL}, []):
        found = data.keep([ORIGINS[origin] for origin in kept])
        assert rows_of(found) == [row for row in everything if row[0] in kept]


def test_arguments_that_do_not_fit() -> None:
    table, latent = table_of([[1, 2]]), np.zeros(1, dtype=np.int64)
    for decoded, spaces in ((table, None), (None, latent), (table, np.zeros(2, dtype=np.int64))):
        with pytest.raises(ValueError, match="latent"):
            merge(table, None, decoded, spaces)
    other = SequenceTable.from_arrays(np.array([1, 2]), np.array([0, 2]), N_ITEMS + 1)
    with pytest.raises(ValueError, match="vocabulary"):
        concatenate([table, other])
    with pytest.raises(ValueError, match="shape"):
        RegeneratedData(table, np.zeros(2, dtype=np.int64), latent + 1)
    with pytest.raises(ValueError, match="count has shape"):
        RegeneratedData(table, latent - 1, np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="latent space"):
        RegeneratedData(table, latent, latent + 1)


def test_no_copy_of_the_originals_is_refused_with_the_settings() -> None:
    problems: list[str] = []
    read(RegenerationSettings, {"original_copies": 0}, problems)
    assert problems == ["original_copies=0 must be between 1 and 1000"]
