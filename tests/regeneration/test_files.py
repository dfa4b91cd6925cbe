"""What is written can be read: by this package exactly, and by RecBole alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import reference
import tables
from recbole_ra.core.errors import DataError
from recbole_ra.data.table import Origin, Prefixes, SequenceTable
from recbole_ra.regeneration import files
from recbole_ra.regeneration.files import (
    item_separator,
    read_sequences,
    write_benchmark_files,
    write_sequences,
)
from recbole_ra.regeneration.merge import RegeneratedData, merge

ITEMS = ["[PAD]", "i1", "i2", "i3", "i4", "i5"]
USERS = ["[PAD]", "u1", "u2", "u3"]
HEADER = "origin\tuser\tlatent\titems"


def table_of(rows: list[list[int]], users: list[int], n_items: int = len(ITEMS)) -> SequenceTable:
    return tables.table_of(rows, n_items, users=users)


def example() -> RegeneratedData:
    original = table_of([[1, 2, 3], [2, 3, 1, 4]], [1, 3])
    patterns = table_of([[2, 3]], [-1])
    decoded = table_of([[2, 1], [4, 1, 2]], [1, 3])
    return merge(original, patterns, decoded, np.array([0, 4]))


def same(one: RegeneratedData, other: RegeneratedData) -> bool:
    equal = one.table.fingerprint() == other.table.fingerprint()
    return equal and one.latent.tolist() == other.latent.tolist()


# The file of sequences.


def test_the_file_is_what_the_documentation_says(tmp_path: Path) -> None:
    write_sequences(tmp_path / "x.tsv", example(), ITEMS, USERS)
    assert (tmp_path / "x.tsv").read_text() == (
        f"{HEADER}\n"
        "original\tu1\t\ti1 i2 i3\n"
        "original\tu3\t\ti2 i3 i1 i4\n"
        "pattern\t\t\ti2 i3\n"
        "regenerated\tu1\t0\ti2 i1\n"
        "regenerated\tu3\t4\ti4 i1 i2\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.tsv"]


odd_text = st.text(
    st.characters(exclude_characters="\t\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=4
)
odd_tokens = st.lists(odd_text | st.sampled_from(["NA", "null", '"', "a b", "-1", "é", "[PAD]"]), min_size=1,
                      max_size=6, unique=True)  # fmt: skip


@st.composite
def some_data(draw: st.DrawFn) -> tuple[RegeneratedData, list[str], list[str]]:
    items, users = draw(odd_tokens), draw(odd_tokens)
    item, owner = st.integers(1, len(items)), st.sampled_from([-1, *range(1, len(users) + 1)])
    row = st.tuples(
        st.sampled_from(Origin), owner, st.integers(-1, 12), st.lists(item, min_size=2, max_size=5)
    )
    rows = draw(st.lists(row, min_size=1, max_size=8))
    origin = np.array([row[0] for row in rows])
    table = SequenceTable.from_arrays(
        np.array([item for row in rows for item in row[3]]),
        np.cumsum([0, *(len(row[3]) for row in rows)]),
        len(items) + 1,
        users=np.array([row[1] for row in rows]),
        origin=origin,
    )
    latent = np.where(origin == Origin.REGENERATED, [row[2] for row in rows], -1)
    data = RegeneratedData(table, latent, np.ones(len(table), dtype=np.int64))
    return data, ["\tpad", *items], ["\tpad", *users]


@given(some_data(), st.sampled_from([1, 3, 1 << 20]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    example: tuple[RegeneratedData, list[str], list[str]],
    block: int,
) -> None:
    data, items, users = example
    path = tmp_path_factory.mktemp("text") / "x.tsv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_ITEMS", block)
        write_sequences(path, data, items, users)
    assert same(read_sequences(path, items, users), data)


def test_a_file_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes(f"\ufeff{HEADER}\r\nregenerated\t\t\ti1 i2\r\npattern\tu2\t\ti5 i5".encode())
    data = read_sequences(path, ITEMS, USERS)
    assert data.table.items.tolist() == [1, 2, 5, 5]
    assert data.table.users.tolist() == [-1, 2]
    assert data.table.origin.tolist() == [Origin.REGENERATED, Origin.PATTERN]
    assert data.latent.tolist() == [-1, -1]


GOOD = "original\tu1\t\ti1 i2"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is empty"),
        (HEADER, "has a header but no rows"),
        (f"{HEADER}\n", "has a header but no rows"),
        (f"{GOOD}\n", "line 1: header is 'original"),
        (f"{HEADER}\tmore\n{GOOD}\n", "line 1: header is"),
        (f"{HEADER}\n{GOOD}\noriginal\tu1\ti1 i2\n", "line 3: there are 3 columns instead of 4"),
        (f"{HEADER}\n{GOOD}\t\n", "line 2: there are 5 columns"),
        (f"{HEADER}\n\n{GOOD}\n", "line 2: there are 1 columns"),
        (f"{HEADER}\n{GOOD}\nOriginal\tu1\t\ti1 i2\n", "line 3: unknown origin 'Original'; must be one of"),
        (f"{HEADER}\n{GOOD}\noriginal\tu9\t\ti1 i2\n", "line 3: unknown user 'u9'"),
        (f"{HEADER}\nregenerated\tu1\tx\ti1 i2\n", "line 2: latent 'x'"),
        (f"{HEADER}\nregenerated\tu1\t-1\ti1 i2\n", "line 2: latent '-1'"),
        (f"{HEADER}\nregenerated\tu1\t9999999999\ti1 i2\n", "line 2: latent '9999999999'"),
        (f"{HEADER}\n{GOOD}\noriginal\tu1\t0\ti1 i2\n", "line 3: latent '0' must be empty"),
        (f"{HEADER}\n{GOOD}\n{GOOD}\noriginal\tu1\t\ti1\n", "line 4: items 'i1' are fewer than 2"),
        (f"{HEADER}\noriginal\tu1\t\t\n", "line 2: items '' are fewer than 2"),
        (f"{HEADER}\n{GOOD}\noriginal\tu1\t\ti1 i2 i9\n{GOOD}\n", "line 3: unknown item 'i9'"),
        (f"{HEADER}\n{GOOD}\noriginal\tu1\t\ti1  i2\n", "line 3: unknown item ''"),
        (f"{HEADER}\noriginal\tu1\t\ti1 [PAD]\n", r"line 2: unknown item '\[PAD\]'"),
    ],
)
def test_a_fault_is_one_line_that_says_where(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=fault) as caught:
        read_sequences(path, ITEMS, USERS)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_sequences(tmp_path / "x.tsv", ITEMS, USERS)
    with pytest.raises(DataError, match="is a directory"):
        read_sequences(tmp_path, ITEMS, USERS)
    (tmp_path / "x.tsv").write_bytes(b"origin\xff")
    with pytest.raises(DataError, match="no UTF-8"):
        read_sequences(tmp_path / "x.tsv", ITEMS, USERS)


def test_the_separator_is_in_no_item() -> None:
    assert [item_separator(["a b", *tokens]) for tokens in ([], ["a"], ["a b"], ["a b", "c,"], [" ,;"])] == [
        " ", " ", ",", ";", "|",
    ]  # fmt: skip
    with pytest.raises(DataError, match="every possible separator"):
        item_separator(["", " ,", ";|"])


@pytest.mark.parametrize("bad", ["", "a\tb", "a\nb", "a\rb", "\0"])
def test_tokens_that_no_line_can_hold(tmp_path: Path, bad: str) -> None:
    for items, users, what in (([*ITEMS[:-1], bad], USERS, "item"), (ITEMS, [*USERS[:-1], bad], "user")):
        with pytest.raises(DataError, match=f"{what} .*rename it"):
            write_sequences(tmp_path / "x.tsv", example(), items, users)
        with pytest.raises(DataError, match=f"{what} .*rename it"):
            benchmark(tmp_path, items=items, users=users)
    assert list(tmp_path.rglob("*.*")) == []


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row"):
        write_sequences(tmp_path / "x.tsv", example().keep([]), ITEMS, USERS)


def test_a_file_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    write_sequences(tmp_path / "x.tsv", example(), ITEMS, USERS)
    before = (tmp_path / "x.tsv").read_bytes()
    monkeypatch.setattr(files._Text, "of_rows", fail)
    with pytest.raises(KeyboardInterrupt):
        write_sequences(tmp_path / "x.tsv", example(), ITEMS, USERS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tsv"]
    assert (tmp_path / "x.tsv").read_bytes() == before


# RecBole's pre-split files.


def held_out(rows: list[list[int]], users: list[int], n_items: int = len(ITEMS)) -> tuple[Prefixes, Prefixes]:
    """The last two items of each row as targets."""
    table = table_of(rows, users, n_items)
    sequence = np.arange(len(rows))
    return (
        Prefixes(table, sequence, table.lengths - 2, 50),
        Prefixes(table, sequence, table.lengths - 1, 50),
    )


def benchmark(
    folder: Path, items: list[str] = ITEMS, users: list[str] = USERS, name: str = "small", max_length: int = 3
) -> Path:
    valid, test = held_out([[1, 2, 3, 4, 2], [2, 3, 1, 4, 1, 1]], [1, 3])
    return write_benchmark_files(
        folder / "small",
        name,
        train=example().table,
        valid=valid,
        test=test,
        user_tokens=users,
        item_tokens=items,
        max_length=max_length,
    )


def test_benchmark_files_hold_every_prefix(tmp_path: Path) -> None:
    settings = benchmark(tmp_path)
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    rows = {
        split: (tmp_path / "small" / f"small.{split}.inter").read_text().splitlines()
        for split in ("train", "valid", "test")
    }
    assert rows["train"] == [
        header,
        "u1\ti1\ti2",
        "u1\ti1 i2\ti3",
        "u3\ti2\ti3",
        "u3\ti2 i3\ti1",
        "u3\ti2 i3 i1\ti4",
        "[pattern]\ti2\ti3",
        "u1\ti2\ti1",
        "u3\ti4\ti1",
        "u3\ti4 i1\ti2",
    ]
    assert rows["valid"] == [header, "u1\ti1 i2 i3\ti4", "u3\ti3 i1 i4\ti1"]
    assert rows["test"] == [header, "u1\ti2 i3 i4\ti2", "u3\ti1 i4 i1\ti1"]
    assert (tmp_path / "small" / "small.item").read_text().split() == ["item_id:token", *ITEMS[1:]]
    assert settings == tmp_path / "small" / "small.yaml"
    assert yaml.safe_load(settings.read_text())["MAX_ITEM_LIST_LENGTH"] == 3
    assert len(list((tmp_path / "small").iterdir())) == 5


def test_rows_of_nobody_get_a_user_that_is_not_there(tmp_path: Path) -> None:
    benchmark(tmp_path, users=["[PAD]", "u1", "[pattern]", "[[pattern]]"])
    train = (tmp_path / "small" / "small.train.inter").read_text()
    assert "\n[[[pattern]]]\ti2\ti3\n" in train


@pytest.mark.parametrize("bad", ['"a', "NA", "null", "[PAD]", "1.#QNAN"])
def test_tokens_that_recbole_would_misread(tmp_path: Path, bad: str) -> None:
    for items, users in (([*ITEMS[:-1], bad], USERS), (ITEMS, [*USERS[:-1], bad])):
        with pytest.raises(DataError, match="RecBole"):
            benchmark(tmp_path, items=items, users=users)
    assert list(tmp_path.iterdir()) == []


def test_every_split_needs_a_row(tmp_path: Path) -> None:
    valid, test = held_out([[1, 2, 3, 4]], [1])
    common: dict[str, Any] = {"user_tokens": USERS, "item_tokens": ITEMS, "max_length": 3}
    for split in ("train", "valid", "test"):
        rows: dict[str, Any] = {"train": example().table, "valid": valid, "test": test}
        rows[split] = table_of([[1]], [1]) if split == "train" else rows[split][:0]
        with pytest.raises(DataError, match=f"no {split} row"):
            write_benchmark_files(tmp_path / "small", "small", **rows, **common)
    assert list(tmp_path.iterdir()) == []


def random_case(
    n_users: int, *, tokens: str
) -> tuple[RegeneratedData, Prefixes, Prefixes, list[str], list[str]]:
    """Users with 5 to 14 items of 30, of which the last is never seen, and some patterns and decoded rows."""
    rng = np.random.default_rng(3)
    rows = [rng.integers(1, 29, rng.integers(5, 15)).tolist() for _ in range(n_users)]
    users = list(range(1, n_users + 1))
    valid, test = held_out(rows, users, 31)
    original = table_of([row[:-2] for row in rows], users, 31)
    patterns = table_of([rng.integers(1, 29, 3).tolist() for _ in range(20)], [-1] * 20, 31)
    decoded = table_of([rng.integers(1, 29, 6).tolist() for _ in range(n_users)], users, 31)
    data = merge(original, patterns, decoded, np.arange(n_users) % 5)
    names = ["[PAD]", *(f"{tokens}{number}" for number in range(1, 31))]
    return data, valid, test, ["[PAD]", *(f"{tokens}{user}" for user in users)], names


# A token may hold the separator, be a number with zeros in front, or hold a quote that opens nothing.
@pytest.mark.parametrize("tokens", ["a b", "00", 'x"'])
def test_recbole_reads_back_what_was_written(
    tmp_path: Path, tokens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import recbole_ra.core.compat  # noqa: F401  (before recbole)

    # isort: split
    from recbole.config import Config
    from recbole.data import create_dataset

    for old, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        monkeypatch.setattr(np, old, kind, raising=False)
    monkeypatch.setattr(sys, "argv", ["recbole"])
    data, valid, test, users, items = random_case(25, tokens=tokens)
    settings = write_benchmark_files(
        tmp_path / "made",
        "made",
        train=data.table,
        valid=valid,
        test=test,
        user_tokens=users,
        item_tokens=items,
        max_length=7,
    )
    config = Config(
        model="GRU4Rec", dataset="made", config_file_list=[str(settings)], config_dict={"gpu_id": ""}
    )
    dataset = create_dataset(config)
    names = {field: dataset.field2id_token[field] for field in ("user_id", "item_id", "item_id_list")}
    assert set(names["item_id"]) == set(items), "the catalogue is the original one"
    assert set(names["user_id"]) == {*users, "[pattern]"}
    written = {"train": Prefixes.all_of(data.table, 7), "valid": valid, "test": test}
    for split, prefixes in zip(dataset.build(), written.values(), strict=True):
        rows = split.inter_feat
        assert rows["item_id_list"].shape == (len(prefixes), 7)
        assert rows["item_length"].tolist() == np.minimum(prefixes.position, 7).tolist()
        bounds = zip(prefixes.table.offsets[:-1], prefixes.table.offsets[1:], strict=True)
        naive = reference.prefix_rows([prefixes.table.items[a:b].tolist() for a, b in bounds], 7)
        expected = {(s, position): (history, target) for s, position, history, target in naive}
        for row, where in enumerate(zip(prefixes.sequence.tolist(), prefixes.position.tolist(), strict=True)):
            history, target = expected[where]
            owner = prefixes.table.users[where[0]]
            read = rows["item_id_list"][row, : rows["item_length"][row]]
            assert [names["item_id_list"][i] for i in read] == [items[i] for i in history]
            assert names["item_id"][rows["item_id"][row]] == items[target]
            assert names["user_id"][rows["user_id"][row]] == ("[pattern]" if owner < 0 else users[owner])


@pytest.mark.slow  # starts an interpreter that imports torch and RecBole
def test_recbole_alone_trains_and_evaluates_on_the_files(tmp_path: Path) -> None:
    data, valid, test, users, items = random_case(60, tokens="t")
    settings = write_benchmark_files(
        tmp_path / "made",
        "made",
        train=data.table,
        valid=valid,
        test=test,
        user_tokens=users,
        item_tokens=items,
        max_length=10,
    )
    script = Path(__file__).with_name("plain_recbole.py")
    done = subprocess.run(
        [sys.executable, str(script), "made", str(settings), str(tmp_path / "saved")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["imported"] == []
    assert result["rows"] == [int((data.table.lengths - 1).sum()), 60, 60]
    assert sorted(result["items"]) == sorted(items)
    assert sorted(result["users"]) == sorted([*users, "[pattern]"])
    assert result["moved"] > 0
    assert 0 < result["loss"] < 10 * math.log(30) * (result["rows"][0] // 64 + 1)
    for metrics in (result["valid"], result["test"]):
        assert set(metrics) == {"recall@5", "ndcg@5"}
        assert all(0 <= value <= 1 for value in metrics.values())
