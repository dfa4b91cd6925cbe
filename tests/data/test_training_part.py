"""Training items are numbered whatever is held out; every loader reads regenerated training data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.core.errors import DataError
from recbole_ra.data.dataset import PREFIX_FIELD, Splits
from recbole_ra.data.table import Origin, SequenceTable
from recbole_ra.data.training_part import RegeneratedDataset, TrainingItems, training_sequences
from recbole_ra.regeneration.merge import RegeneratedData, merge
from recbole_ra.training.loaders import train_batches
from recbole_ra.training.setup import build_base
from tables import table_of

TOKENS = ["[PAD]", "pear", "fig", "apple", "kiwi", "plum"]
EXTRA = [[3, 4, 5], [9, 8], [7, 1, 7, 2]]


@given(
    st.lists(st.lists(st.integers(1, 5), max_size=5), max_size=5),
    st.permutations(range(1, 6)),
)
def test_numbers_do_not_depend_on_the_ids(rows: list[list[int]], ids: list[int]) -> None:
    table = table_of(rows, len(TOKENS))
    items = TrainingItems.of(table, TOKENS)
    numbered = items.number(table)
    assert items.ids[numbered.items].tolist() == table.items.tolist()
    assert items.tokens == sorted({TOKENS[item] for row in rows for item in row})
    assert numbered.n_items == len(items) == len(items.tokens) + 1

    renamed = ["[PAD]", *(TOKENS[ids.index(new) + 1] for new in range(1, 6))]
    moved = table_of([[ids[item - 1] for item in row] for row in rows], len(TOKENS))
    again = TrainingItems.of(moved, renamed)
    assert again.digest() == items.digest()
    assert again.number(moved).fingerprint() == numbered.fingerprint()


def added(splits: Splits, owners: list[int], origin: Origin) -> SequenceTable:
    return SequenceTable.from_arrays(
        np.concatenate(EXTRA),
        np.cumsum([0, *map(len, EXTRA)]),
        splits.whole.item_num,
        users=np.array(owners),
        origin=origin,
    )


@pytest.fixture
def data(tiny_splits: Splits) -> RegeneratedData:
    patterns = added(tiny_splits, [-1, -1, -1], Origin.PATTERN)
    return merge(training_sequences(tiny_splits.train), patterns, None, None)


def test_training_sequences_end_before_the_first_held_out_target(tiny_splits: Splits) -> None:
    table, whole = training_sequences(tiny_splits.train), tiny_splits.whole.table
    end = whole.lengths.copy()
    for split in (tiny_splits.valid, tiny_splits.test):
        np.minimum.at(end, split.prefixes.sequence, split.prefixes.position)
    for row in range(len(table)):
        expected = whole.items[whole.offsets[row] :][: end[row]] if end[row] > 1 else []
        assert table.items[table.offsets[row] : table.offsets[row + 1]].tolist() == list(expected)


def test_rows_are_those_of_the_originals_and_the_patterns(tiny_splits: Splits, data: RegeneratedData) -> None:
    train = tiny_splits.train
    ours = RegeneratedDataset(train, data.table)
    extra = sum(len(row) - 1 for row in EXTRA)
    assert len(ours) == len(train) + extra
    rows = ours[np.arange(len(ours))]
    before = train[np.lexsort([train.prefixes.position, train.prefixes.sequence])]
    for column in before.columns:
        if column != "flat_position":
            assert torch.equal(rows[column][: len(train)], before[column]), column
    tail = slice(len(train), None)
    assert rows["user_id"][tail].tolist() == [0] * extra
    assert rows["item_id"][tail].tolist() == [4, 5, 8, 1, 7, 2]
    assert rows[PREFIX_FIELD][tail].tolist() == [1, 2, 1, 1, 2, 3]
    assert rows["item_id_list"][-1].tolist()[:4] == [7, 1, 7, 0]


def test_times_are_exact_for_originals_and_unknown_elsewhere(
    tiny_splits: Splits, data: RegeneratedData
) -> None:
    found, known = (
        RegeneratedDataset(tiny_splits.train, data.table).table.times,
        training_sequences(tiny_splits.train),
    )
    assert found is not None
    assert known.times is not None
    np.testing.assert_array_equal(found[: len(known.items)], known.times)
    assert np.isnan(found[len(known.items) :]).all()
    assert len(found) > len(known.items)


def test_an_original_that_trains_twice_is_one_memory(tiny_splits: Splits, data: RegeneratedData) -> None:
    once = RegeneratedDataset(tiny_splits.train, data.table)
    twice = RegeneratedDataset(tiny_splits.train, data.repeat_originals(2).table)
    assert once.distinct_rows.tolist() == list(range(len(once)))
    assert len(twice) == len(once) + len(tiny_splits.train)
    expected, found = once.prefixes, twice.prefixes[twice.distinct_rows]
    for name in ("users", "position", "targets"):
        assert sorted(getattr(found, name)) == sorted(getattr(expected, name)), name


def test_the_original_split_is_left_alone(tiny_splits: Splits, data: RegeneratedData) -> None:
    before = [len(split) for split in (tiny_splits.train, tiny_splits.valid, tiny_splits.test)]
    table = tiny_splits.train.table
    RegeneratedDataset(tiny_splits.train, data.table)
    assert [len(split) for split in (tiny_splits.train, tiny_splits.valid, tiny_splits.test)] == before
    assert tiny_splits.train.table is table


@pytest.mark.parametrize("model", ["SASRec", "DuoRec", "NARM", "BERT4Rec", "NPE", "HGN", "FEARec"])
def test_every_kind_of_model_trains_on_it(
    model: str, tiny_config: Callable[..., Any], tiny_splits: Splits, data: RegeneratedData
) -> None:
    config = tiny_config(model)
    splits = Splits.load(config)
    train = RegeneratedDataset(splits.train, data.table)
    base = build_base(config, splits, train)
    base.trained.train()
    seen = 0
    for batch in train_batches(config, splits, base.own, train):
        assert torch.isfinite(torch.as_tensor(base.trained.calculate_loss(batch))).all()
        seen += len(batch.targets) if base.own is not None else len(batch["item_id"])
    assert seen == len(train)


def test_fearec_looks_for_equal_targets_among_the_rows_that_it_trains_on(
    tiny_config: Callable[..., Any], data: RegeneratedData
) -> None:
    """A decoded row may end with an item that originals only begin with."""
    config = tiny_config("FEARec")
    splits = Splits.load(config)
    train = RegeneratedDataset(splits.train, data.table)
    known = build_base(config, splits, train).trained.same_item_index
    assert {*known} == {*train.prefixes.targets.tolist()}
    assert max(max(rows) for rows in known.values()) == len(train) - 1


def test_originals_that_are_not_the_training_sequences_are_refused(
    tiny_splits: Splits, data: RegeneratedData
) -> None:
    table = data.table
    items = table.items.copy()
    items[0] = items[0] % (table.n_items - 1) + 1
    changed = SequenceTable(items, table.offsets, table.users, table.n_items, table.origin)
    with pytest.raises(DataError, match="1 regenerated rows of origin 'original' are not their user's"):
        RegeneratedDataset(tiny_splits.train, changed)
    whole = merge(tiny_splits.whole.table, None, None, None)
    with pytest.raises(DataError, match="made from another data set or split"):
        RegeneratedDataset(tiny_splits.train, whole.table)
