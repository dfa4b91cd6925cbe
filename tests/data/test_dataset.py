"""Our rows, histories, lengths and splits are those of RecBole's own data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset

from recbole_ra.core.errors import DataError
from recbole_ra.data.dataset import EXACT_TIME_FIELD, FLAT_FIELD, PREFIX_FIELD, CompactDataset, Splits

CASES: dict[str, dict[str, Any]] = {
    "leave one out": {},
    "validation only": {"eval_args": {"split": {"LS": "valid_only"}}},
    "ratios of each user": {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}},
    "ratios of all rows": {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": None}},
    "filtered users": {"user_inter_num_interval": "[5,inf)"},
    "filtered users and items": {"user_inter_num_interval": "[4,18)", "item_inter_num_interval": "[10,inf)"},
    "long histories": {"MAX_ITEM_LIST_LENGTH": 50},
    "histories of one item": {"MAX_ITEM_LIST_LENGTH": 1},
    "filtered times": {"val_interval": {"timestamp": "[1010,inf)"}, "user_inter_num_interval": "[3,inf)"},
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tiny_config: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
    """The whole data set and its splits, ours and RecBole's."""
    config = tiny_config("SASRec", **CASES[request.param])
    ours, theirs = CompactDataset(config), SequentialDataset(config)
    return [ours, *ours.build()], [theirs, *theirs.build()]


def test_rows_are_equal(pair: tuple[list[Any], list[Any]]) -> None:
    for ours, theirs in zip(*pair, strict=True):
        assert len(ours) == len(theirs)
        assert (ours.user_num, ours.item_num) == (theirs.user_num, theirs.item_num)
        rows = torch.arange(len(ours)).flip(0)
        found, expected = ours[rows], theirs[rows]
        assert set(expected.columns) == set(found.columns) - {FLAT_FIELD, PREFIX_FIELD, EXACT_TIME_FIELD}
        for column in expected.columns:
            assert found[column].dtype == expected[column].dtype, column
            assert torch.equal(found[column], expected[column]), column


def test_prefixes_are_the_rows(pair: tuple[list[Any], list[Any]]) -> None:
    for ours, theirs in zip(*pair, strict=True):
        prefixes, rows = ours.prefixes, theirs[torch.arange(len(theirs))]
        np.testing.assert_array_equal(prefixes.targets, rows["item_id"])
        np.testing.assert_array_equal(prefixes.users, rows["user_id"])
        np.testing.assert_array_equal(prefixes.lengths, rows["item_length"])
        np.testing.assert_array_equal(prefixes.items(ours.max_item_list_len), rows["item_id_list"])
        np.testing.assert_array_equal(prefixes.position, ours.inter_feat[PREFIX_FIELD])


def test_matrices_are_equal(pair: tuple[list[Any], list[Any]]) -> None:
    for ours, theirs in zip(*pair, strict=True):
        for form in ("coo", "csr"):
            found, expected = ours.inter_matrix(form), theirs.inter_matrix(form)
            assert found.format == form
            assert found.shape == expected.shape
            assert (found != expected).nnz == 0


def test_popularities_are_equal(pair: tuple[list[Any], list[Any]]) -> None:
    for ours, theirs in zip(*pair, strict=True):
        assert ours.item_counter == theirs.item_counter
        assert ours.user_counter == theirs.user_counter


def test_vocabularies_are_equal(pair: tuple[list[Any], list[Any]]) -> None:
    ours, theirs = pair[0][0], pair[1][0]
    assert ours.vocabulary == theirs.field2id_token["item_id"].tolist()
    assert ours.vocabulary[0] == "[PAD]"


def test_the_table_is_ordered_by_time_within_users(tiny_splits: Any) -> None:
    table = tiny_splits.whole.table
    assert len(table) == 60
    for s in range(len(table)):
        times = table.times[table.offsets[s] : table.offsets[s + 1]]
        assert (np.diff(times) >= 0).all()


def test_unix_times_are_sorted_exactly(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    """Seconds and milliseconds apart, newest first in the file: float32 could not tell them apart."""
    (tmp_path / "tiny").mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, (start, step) in enumerate([(1_400_000_000, 1), (1_400_000_000, 10), (1_400_000_000_000, 1)]):
        lines += [f"u{user}\ti{place}\t{start + step * place}" for place in reversed(range(6))]
    (tmp_path / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
    splits = Splits.load(tiny_config(data_path=str(tmp_path)))
    table, names = splits.whole.table, splits.whole.vocabulary
    assert [names[item] for item in table.items] == [f"i{place}" for place in range(6)] * 3
    assert [names[item] for item in splits.test.prefixes.targets] == ["i5"] * 3
    assert table.times is not None
    assert (np.diff(table.times.reshape(3, 6)) == [[1], [10], [1]]).all()


def test_leave_one_out_takes_the_last_two(tiny_splits: Any) -> None:
    """Of three interactions there is one to train on and one to test, as in RecBole."""
    table = tiny_splits.whole.table
    for split, back, shortest in ((tiny_splits.test, 1, 3), (tiny_splits.valid, 2, 4)):
        prefixes = split.prefixes
        assert sorted(prefixes.sequence.tolist()) == np.flatnonzero(table.lengths >= shortest).tolist()
        np.testing.assert_array_equal(prefixes.position, table.lengths[prefixes.sequence] - back)
    train = tiny_splits.train.prefixes
    assert (train.position < np.maximum(table.lengths[train.sequence] - 2, 2)).all()


def test_a_missing_data_set_is_named(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    with pytest.raises(DataError, match=r"tiny\.inter"):
        Splits.load(tiny_config(data_path=str(tmp_path)))


def test_short_users_are_named(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"ann\ti{n}\t{n}" for n in range(5)] + ["bob\ti1\t1", "bob\ti2\t2"]
    (tmp_path / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"1 users have fewer than 3 interactions \(first: user 'bob'\)"):
        Splits.load(tiny_config(data_path=str(tmp_path)))
    loaded = Splits.load(tiny_config(data_path=str(tmp_path), user_inter_num_interval="[3,inf)"))
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"user_inter_num_interval": "[500,inf)"}, r"is empty after filtering .*\[500,inf\).*loosen"),
        ({"val_interval": {"timestamp": "[0,1]"}}, "is empty after filtering"),
        ({"benchmark_filename": ["train", "valid", "test"]}, "pre-split files are not read"),
        ({"rm_dup_inter": "x"}, "'tiny' cannot be loaded with these settings: keep must be"),
        (
            {"load_col": {"inter": ["user_id", "item_id", "timestamp", "time"]}},
            "load_col names the column 'time'",
        ),
        ({"threshold": {"rating": 3}}, "'tiny' cannot be loaded with these settings: .*rating"),
    ],
)
def test_settings_that_do_not_fit_the_data(
    settings: dict[str, Any], words: str, tiny_config: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        Splits.load(tiny_config(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (None, r"tiny\.item: no such file, but load_col names columns of it"),
        ('i1\t"Weird\ni2\tx\ni3\ty"\n', r"tiny\.item, line 2: a double quote opens a field"),
        ("i1\tx\ni2\n", r"tiny\.item, line 3: 1 fields where the header has 2"),
    ],
)
def test_files_of_features_are_checked_too(
    features: str | None, words: str, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *(f"ann\ti{n}\t{n}" for n in range(5))]
    (tmp_path / "tiny" / "tiny.inter").write_text("\n".join(lines) + "\n")
    if features is not None:
        (tmp_path / "tiny" / "tiny.item").write_text("item_id:token\tkind:token\n" + features)
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "kind"]}
    with pytest.raises(DataError, match=words):
        Splits.load(tiny_config(data_path=str(tmp_path), load_col=columns))
