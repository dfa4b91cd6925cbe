from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequential.seq2pat import Seq2Pat

import reference
from recbole_ra.core.errors import RecboleRaError
from recbole_ra.core.setting import read
from recbole_ra.data.table import Origin, SequenceTable
from recbole_ra.regeneration import mining
from recbole_ra.regeneration.mining import Patterns, mine_patterns
from recbole_ra.settings.declared import PatternSettings
from tables import table_of


def as_dict(patterns: Patterns) -> dict[tuple[int, ...], int]:
    bounds = zip(patterns.offsets[:-1], patterns.offsets[1:], strict=True)
    rows = [tuple(patterns.items[a:b].tolist()) for a, b in bounds]
    result = dict(zip(rows, patterns.support.tolist(), strict=True))
    assert len(result) == len(patterns), "a pattern is listed twice"
    return result


def by_seq2pat(sequences: list[list[int]], window: int, min_support: int) -> dict[tuple[int, ...], int]:
    found = Seq2Pat(sequences=sequences, max_span=window).get_patterns(min_frequency=min_support)
    return {tuple(pattern[:-1]): pattern[-1] for pattern in found}


def training_table(file: Path) -> tuple[SequenceTable, list[list[int]]]:
    frame = pd.read_csv(file, sep="\t", header=0, names=["user", "item", "time"])
    frame = frame.sort_values(["user", "time"], kind="stable")
    lengths = frame.groupby("user").size().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = frame["item"].to_numpy()
    whole = SequenceTable.from_arrays(items, offsets, int(items.max()) + 1)
    table = whole.head(lengths - 2)
    bounds = zip(table.offsets[:-1], table.offsets[1:], strict=True)
    return table, [table.items[a:b].tolist() for a, b in bounds]


some_sequences = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=12), min_size=1, max_size=7)


def test_known_answer() -> None:
    found = as_dict(mine_patterns(table_of([[1, 2, 3], [1, 9, 2, 3], [2, 1]])))
    assert found == {(1, 2): 2, (1, 3): 2, (2, 3): 2, (1, 2, 3): 2}


def test_first_and_last_item_must_share_a_window() -> None:
    sequences = [[1, 8, 7, 6, 2], [1, 2], [3, 8, 7, 6, 5, 4], [3, 4]]
    found = as_dict(mine_patterns(table_of(sequences), window=5))
    assert found[1, 2] == 2
    assert (3, 4) not in found


def test_a_repeated_item_may_repeat_in_a_pattern_and_counts_once_a_sequence() -> None:
    found = as_dict(mine_patterns(table_of([[1, 1, 2, 1, 1], [1, 1, 3]])))
    assert found == {(1, 1): 2}


def test_patterns_never_span_two_sequences() -> None:
    assert len(mine_patterns(table_of([[1], [2], [1], [2]]))) == 0


@pytest.mark.parametrize("sequences", [[], [[]], [[], [1], []], [[1]]])
def test_nothing_to_mine(sequences: list[list[int]]) -> None:
    patterns = mine_patterns(table_of(sequences), min_support=1)
    assert len(patterns) == 0
    assert len(patterns.to_table(10)) == 0


@given(some_sequences, st.integers(2, 6), st.integers(1, 3), st.integers(2, 6))
def test_equals_naive(sequences: list[list[int]], window: int, min_support: int, max_length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "MAX_LENGTH", max_length)
        patterns = mine_patterns(table_of(sequences), window=window, min_support=min_support)
    assert as_dict(patterns) == reference.mine(sequences, window, min_support, max_length)


@settings(max_examples=30)  # seq2pat starts a process for each
@given(some_sequences, st.integers(2, 5), st.integers(1, 3))
def test_equals_seq2pat(sequences: list[list[int]], window: int, min_support: int) -> None:
    patterns = mine_patterns(table_of(sequences), window=window, min_support=min_support)
    # seq2pat refuses a support that no pattern can reach.
    peer = by_seq2pat(sequences, window, min_support) if min_support <= len(sequences) else {}
    assert as_dict(patterns) == peer


@given(some_sequences, st.integers(2, 6), st.integers(1, 3), st.integers(1, 20))
def test_sorting_in_parts_changes_nothing(
    sequences: list[list[int]], window: int, min_support: int, cached: int
) -> None:
    whole = mine_patterns(table_of(sequences), window=window, min_support=min_support)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "CACHED", cached)
        parted = mine_patterns(table_of(sequences), window=window, min_support=min_support)
    for name in ("items", "offsets", "support"):
        np.testing.assert_array_equal(getattr(parted, name), getattr(whole, name))


@given(some_sequences, st.randoms(use_true_random=False))
def test_order_is_by_length_then_items_whatever_the_order_of_users(
    sequences: list[list[int]], random
) -> None:
    patterns = mine_patterns(table_of(sequences))
    rows = list(as_dict(patterns))
    assert rows == sorted(rows, key=lambda row: (len(row), row))
    random.shuffle(sequences)
    again = mine_patterns(table_of(sequences))
    np.testing.assert_array_equal(patterns.items, again.items)
    np.testing.assert_array_equal(patterns.support, again.support)


def test_large_vocabularies_do_not_overflow() -> None:
    top = 2**31 - 2
    sequence = [top - 1, top, top - 2, top - 1, top]
    found = as_dict(mine_patterns(table_of([sequence, sequence])))
    assert found == reference.mine([sequence, sequence], 5, 2, 5)


def test_to_table() -> None:
    table = mine_patterns(table_of([[1, 2, 3], [1, 2, 3]])).to_table(4)
    assert table.lengths.tolist() == [2, 2, 2, 3]
    assert table.users.tolist() == [-1] * 4
    assert set(table.origin.tolist()) == {Origin.PATTERN}
    assert table.n_items == 4


@pytest.mark.parametrize(("name", "least"), [("window", 2), ("min_support", 1)])
def test_what_cannot_be_mined_is_refused_with_the_settings(name: str, least: int) -> None:
    problems: list[str] = []
    read(PatternSettings, {name: least}, problems)
    assert problems == []
    read(PatternSettings, {name: least - 1}, problems)
    assert problems == [f"{name}={least - 1} must be >= {least}"]


def test_occurrences_that_do_not_fit_are_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "available_memory", lambda: 100_000_000)
    table = SequenceTable.from_arrays(np.tile(np.arange(1, 61), 4), np.arange(5) * 60, 61)
    assert len(mining.mine_patterns(table, window=5)) > 0
    with pytest.raises(RecboleRaError, match=r"window=60: the .* occurrences .* lower window, or raise min_"):
        mining.mine_patterns(table, window=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts"),
    [("amazon-beauty", [28_108, 10_210, 2_091, 255]), ("amazon-toys", [18_041, 1_549, 128, 8])],
)
def test_counts_and_supports_on_real_data(name: str, counts: list[int], shared_dataset: Path) -> None:
    table, sequences = training_table(shared_dataset / name / f"{name}.inter")
    patterns = mine_patterns(table)
    assert np.bincount(patterns.lengths)[2:].tolist() == counts
    assert as_dict(patterns) == by_seq2pat(sequences, 5, 2)
