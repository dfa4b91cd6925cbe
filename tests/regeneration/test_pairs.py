from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from recbole_ra.core.setting import read
from recbole_ra.data.table import SequenceTable
from recbole_ra.regeneration import pairs as module
from recbole_ra.regeneration.mining import Patterns, mine_patterns
from recbole_ra.regeneration.pairs import Pairs, draw_pairs
from recbole_ra.settings.declared import RegenerationSettings
from tables import flat, table_of


def patterns_of(rows: list[list[int]]) -> Patterns:
    items, offsets = flat(rows)
    return Patterns(items, offsets, support=np.full(len(rows), 2))


def contained(table: SequenceTable, patterns: Patterns) -> Pairs:
    """All pairs: no sequence contains more patterns than there are."""
    return draw_pairs(table, patterns, per_sequence=len(patterns), seed=0)


def as_list(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.sequence.tolist(), pairs.pattern.tolist(), strict=True))


some_sequences = st.lists(st.lists(st.integers(1, 5), max_size=12), max_size=7)
# In no order, and the prefix of a pattern is seldom one.
some_patterns = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=5), max_size=40, unique_by=tuple)


def test_known_answer() -> None:
    table = table_of([[1, 9, 2, 3], [3, 2, 1], [1, 1], [], [2]])
    patterns = patterns_of([[1, 1], [1, 2], [2, 1], [1, 2, 3], [3, 2, 1]])
    found = contained(table, patterns)
    assert as_list(found) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 0)]
    assert len(found) == 5
    assert found.sequence.dtype == found.pattern.dtype == np.int64


def test_gaps_are_unlimited_and_sequences_do_not_touch() -> None:
    table = table_of([[1, *range(10, 200), 2], [1], [2]])
    assert as_list(contained(table, patterns_of([[1, 2]]))) == [(0, 0)]


def test_an_item_of_a_pattern_needs_an_occurrence_of_its_own() -> None:
    table = table_of([[7, 7], [7, 8, 7, 8, 7]])
    patterns = patterns_of([[7, 7], [7, 7, 7], [8, 7, 7], [7, 8, 8, 7], [7, 7, 7, 7]])
    assert as_list(contained(table, patterns)) == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]


@given(some_sequences, some_patterns)
def test_equals_naive(sequences: list[list[int]], rows: list[list[int]]) -> None:
    found = contained(table_of(sequences), patterns_of(rows))
    assert as_list(found) == reference.contained(sequences, rows)


@pytest.mark.parametrize("candidates", [1, 7])
@given(sequences=some_sequences, rows=some_patterns)
def test_the_size_of_a_block_changes_nothing(
    candidates: int, sequences: list[list[int]], rows: list[list[int]]
) -> None:
    table, patterns = table_of(sequences), patterns_of(rows)
    whole = as_list(contained(table, patterns))
    drawn = as_list(draw_pairs(table, patterns, per_sequence=2, seed=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CANDIDATES", candidates)
        assert as_list(contained(table, patterns)) == whole
        assert as_list(draw_pairs(table, patterns, per_sequence=2, seed=3)) == drawn


@given(some_sequences)
def test_what_was_mined_is_contained_as_often_as_its_support_or_more(sequences: list[list[int]]) -> None:
    patterns = mine_patterns(table_of(sequences))
    found = contained(table_of(sequences), patterns)
    assert (np.bincount(found.pattern, minlength=len(patterns)) >= patterns.support).all()


@given(some_sequences, some_patterns, st.integers(1, 6), st.integers(0, 3))
def test_draws_as_many_as_there_are_up_to_the_limit(
    sequences: list[list[int]], rows: list[list[int]], limit: int, seed: int
) -> None:
    table, patterns = table_of(sequences), patterns_of(rows)
    drawn = as_list(draw_pairs(table, patterns, per_sequence=limit, seed=seed))
    every = reference.contained(sequences, rows)
    assert drawn == sorted(set(drawn) & set(every))
    there = Counter(sequence for sequence, _ in every)
    assert Counter(sequence for sequence, _ in drawn) == {s: min(n, limit) for s, n in there.items()}


def test_every_subset_is_drawn_equally_often() -> None:
    n_sequences = 6000
    table = table_of([[1, 2, 3, 4]] * n_sequences)
    patterns = patterns_of([[1, 2], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4]])
    drawn = draw_pairs(table, patterns, per_sequence=2, seed=0)
    subsets = Counter(map(tuple, drawn.pattern.reshape(n_sequences, 2).tolist()))
    expected = n_sequences / 15
    assert len(subsets) == 15
    # Five standard deviations of a binomial count.
    assert max(abs(count - expected) for count in subsets.values()) < 5 * (expected * 14 / 15) ** 0.5


def test_the_draw_depends_on_the_seed_alone() -> None:
    table = table_of([[1, 2, 3, 4, 5, 6]] * 50)
    patterns = patterns_of([[a, b] for a in range(1, 7) for b in range(a + 1, 7)])
    first, again, other = (as_list(draw_pairs(table, patterns, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(first) == len(other) == 50 * 10


@pytest.mark.parametrize("sequences", [[], [[]], [[1, 2, 3]]])
def test_no_patterns_no_pairs(sequences: list[list[int]]) -> None:
    table, patterns = table_of(sequences), patterns_of([])
    for found in (contained(table, patterns), draw_pairs(table, patterns, seed=1)):
        assert len(found) == 0
        assert found.sequence.dtype == found.pattern.dtype == np.int64


def test_patterns_may_know_items_that_the_table_does_not() -> None:
    # In keys of the table's own width, 3, going from 1 to 7 is the same as from (2, 1) to 1.
    found = contained(table_of([[2, 1, 1]]), patterns_of([[1, 7], [2, 1]]))
    assert as_list(found) == [(0, 1)]


def test_large_vocabularies_do_not_overflow() -> None:
    top = 2**31 - 2
    sequence, rows = [top, top - 1, 3, top], [[top, top], [top - 1, top], [top, 3, top], [3, 3]]
    assert as_list(contained(table_of([sequence]), patterns_of(rows))) == [(0, 0), (0, 1), (0, 2)]


def test_a_limit_below_one_is_refused_with_the_settings() -> None:
    problems: list[str] = []
    read(RegenerationSettings, {"pairs_per_sequence": 0}, problems)
    assert problems == ["pairs_per_sequence=0 must be >= 1"]


@pytest.mark.slow
def test_equals_naive_on_real_data(shared_dataset: Path) -> None:
    file = shared_dataset / "amazon-beauty" / "amazon-beauty.inter"
    frame = pd.read_csv(file, sep="\t", header=0, names=["user", "item", "time"])
    frame = frame.sort_values(["user", "time"], kind="stable")
    lengths = frame.groupby("user").size().to_numpy()
    items, offsets = frame["item"].to_numpy(), np.concatenate([[0], np.cumsum(lengths)])
    table = SequenceTable.from_arrays(items, offsets, int(items.max()) + 1).head(lengths - 2)
    patterns = mine_patterns(table)
    found = contained(table, patterns)

    sample = np.random.default_rng(0).choice(len(table), 199, replace=False)
    sample = np.unique(np.append(sample, table.lengths.argmax()))
    sequences = [table.items[table.offsets[s] : table.offsets[s + 1]].tolist() for s in sample]
    bounds = zip(patterns.offsets[:-1], patterns.offsets[1:], strict=True)
    expected = reference.contained(sequences, [patterns.items[a:b].tolist() for a, b in bounds])
    chosen = np.isin(found.sequence, sample)
    row_of_sample = np.searchsorted(sample, found.sequence[chosen])
    assert list(zip(row_of_sample.tolist(), found.pattern[chosen].tolist(), strict=True)) == expected

    drawn = draw_pairs(table, patterns, seed=2020)
    there = np.bincount(found.sequence, minlength=len(table))
    np.testing.assert_array_equal(np.bincount(drawn.sequence, minlength=len(table)), np.minimum(there, 10))
    assert set(as_list(drawn)) <= set(as_list(found))
