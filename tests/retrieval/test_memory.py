from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from recbole_ra.core.errors import CheckpointError, DataError, RecboleRaError
from recbole_ra.core.files import write_arrays
from recbole_ra.retrieval.index import KINDS
from recbole_ra.retrieval.memory import MemoryBank

ARRAYS = ("keys", "values", "users", "lengths", "times", "recent")
FILES = ("memories.npz", "index.bin")


def columns(rows: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    times = rng.random(rows)
    times[::3] = np.nan
    return (
        rng.normal(size=(rows, 8)).astype(np.float32),
        rng.integers(1, 50, rows),
        rng.integers(-1, 9, rows),
        rng.integers(1, 9, rows),
        times,
        rng.integers(0, 50, (rows, 3)),
    )


def bank_of(rows: int, kind: str = "Flat", seed: int = 0) -> MemoryBank:
    return MemoryBank.build(*columns(rows, seed), index_kind=kind, seed=0)


def assert_equal(a: MemoryBank, b: MemoryBank) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), strict=True)
    queries = columns(30, seed=9)[0]
    for x, y in zip(a.index.search(queries, 5), b.index.search(queries, 5), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_give_the_same_bank(kind: str, tmp_path: Path) -> None:
    bank = bank_of(200, kind)
    bank.save(tmp_path / "deep" / "bank")
    assert_equal(MemoryBank.load(tmp_path / "deep" / "bank"), bank)


@pytest.mark.parametrize("kind", ["Flat", "Torch"])
def test_adding_equals_building_at_once(kind: str) -> None:
    whole = columns(90)
    grown = MemoryBank.build(*(column[:50] for column in whole), index_kind=kind, seed=0)
    grown.add(*(column[50:] for column in whole))
    assert len(grown) == len(grown.index) == 90
    assert_equal(grown, MemoryBank.build(*whole, index_kind=kind, seed=0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_grows_by_itself(kind: str) -> None:
    bank, before, further = bank_of(300, kind), bank_of(300, kind), columns(40, seed=1)
    copied = bank.copy()
    copied.add(*further)
    assert (len(bank), len(copied)) == (300, 340)
    assert_equal(bank, before)
    query = further[0][:5]
    assert (bank.index.search(query, 10)[1] == before.index.search(query, 10)[1]).all()
    assert (copied.index.search(query, 1)[1][:, 0] == np.arange(300, 305)).all()


def test_one_by_one_equals_at_once_and_columns_that_were_handed_out_stay() -> None:
    whole = columns(90)
    grown = MemoryBank.build(*(column[:50] for column in whole), index_kind="Flat", seed=0)
    seen = []
    for row in range(50, 90):
        grown.add(*(column[row : row + 1] for column in whole))
        seen.append(grown.keys)
    assert_equal(grown, MemoryBank.build(*whole, index_kind="Flat", seed=0))
    for size, keys in enumerate(seen, start=51):
        np.testing.assert_array_equal(keys, whole[0][:size])
    assert len({keys.base.ctypes.data for keys in seen}) == 1  # room for all was made once


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_owner_leaves_the_others(kind: str) -> None:
    whole = columns(400)
    bank = MemoryBank.build(*whole, index_kind=kind, nlist=4, nprobe=4, seed=0)
    stay = whole[2] != 3
    assert bank.remove_owner(3) == (~stay).sum() > 0
    assert bank.remove_owner(3) == 0
    kept = MemoryBank.build(*(column[stay] for column in whole), index_kind="Flat", seed=0)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(bank, name), getattr(kept, name), strict=True)
    queries = columns(30, seed=9)[0]
    np.testing.assert_array_equal(bank.index.search(queries, 1)[1], kept.index.search(queries, 1)[1])
    bank.add(*(column[:10] for column in whole))
    assert len(bank.index) == len(bank) == stay.sum() + 10
    assert bank.index.search(whole[0][:1], 1)[0][0, 0] == pytest.approx(1, abs=1e-5)


def test_the_last_owner_may_go() -> None:
    bank = bank_of(20)
    for user in range(-1, 9):
        bank.remove_owner(user)
    assert len(bank) == len(bank.index) == 0
    bank.add(*columns(5))
    assert len(bank) == len(bank.index) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_grows_after_loading(kind: str, tmp_path: Path) -> None:
    bank = bank_of(200, kind)
    bank.save(tmp_path / "bank")
    loaded = MemoryBank.load(tmp_path / "bank")
    new = columns(7, seed=4)
    loaded.add(*new)
    _, ids = loaded.index.search(new[0], 1)
    assert ids[:, 0].tolist() == list(range(200, 207))
    assert loaded.values[200:].tolist() == new[1].tolist()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    bank_of(40).save(tmp_path / "bank")
    path = tmp_path / "bank" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name) as caught:
        MemoryBank.load(tmp_path / "bank")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"users": np.zeros(39, np.int64)},
        {"keys": np.zeros((39, 8), np.float32)},
        {"keys": np.zeros(40, np.float32)},
        {"keys": np.zeros((40, 8))},
        {"values": np.zeros(40, np.int32)},
        {"values": np.int64(40)},
        {"times": np.zeros((40, 1))},
        {"index_kind": np.array("HNSW")},
        {"index_kind": np.array("../x")},
        {"index_digest": np.array("0" * 64)},
    ],
    ids=str,
)
def test_a_changed_file_is_refused(change: dict, tmp_path: Path) -> None:
    bank_of(40).save(tmp_path / "bank")
    path = tmp_path / "bank" / "memories.npz"
    write_arrays(path, **{**dict(np.load(path)), **change})
    with pytest.raises(CheckpointError, match=r"bank/(memories\.npz|index\.bin): .*; delete the artifact"):
        MemoryBank.load(tmp_path / "bank")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [39, 40])
def test_an_index_of_another_bank_is_refused(rows: int, kind: str, tmp_path: Path) -> None:
    bank_of(40, kind).save(tmp_path / "bank")
    bank_of(rows, kind, seed=1).index.save(tmp_path / "bank" / "index.bin")
    with pytest.raises(
        CheckpointError, match=r"index\.bin: is missing, damaged or of another bank; delete the"
    ):
        MemoryBank.load(tmp_path / "bank")


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"'])
def test_a_file_that_holds_no_arrays(content: str, tmp_path: Path) -> None:
    (tmp_path / "memories.npz").write_text(content)
    with pytest.raises(CheckpointError, match=r"memories\.npz: is missing or damaged; delete the artifact"):
        MemoryBank.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere.memories\.npz"):
        MemoryBank.load(tmp_path / "nowhere")


def test_a_pickled_array_is_not_opened(tmp_path: Path) -> None:
    bank = bank_of(40)
    bank.values = np.array([{}] * 40, dtype=object)
    bank.save(tmp_path / "bank")
    with pytest.raises(CheckpointError, match=r"memories\.npz: is missing or damaged"):
        MemoryBank.load(tmp_path / "bank")


def test_saving_replaces_an_earlier_bank_and_leaves_nothing_else(tmp_path: Path) -> None:
    bank_of(40).save(tmp_path / "bank")
    bank_of(60, seed=1).save(tmp_path / "bank")
    assert_equal(MemoryBank.load(tmp_path / "bank"), bank_of(60, seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_save_that_fails_keeps_the_earlier_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank_of(40).save(tmp_path / "bank")
    later = bank_of(60, seed=1)

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "injected")

    monkeypatch.setattr(later.index, "save", full_disk)
    with pytest.raises(RecboleRaError, match="bank: no space left"):
        later.save(tmp_path / "bank")
    assert_equal(MemoryBank.load(tmp_path / "bank"), bank_of(40))
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_directory_that_is_no_bank_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="not a memory bank"):
        bank_of(10).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"thesis\.txt"):
        bank_of(10).save(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_an_empty_bank_is_refused() -> None:
    with pytest.raises(DataError, match="lower min_support"):
        bank_of(0)


def test_arrays_must_fit() -> None:
    keys, values, users, lengths, times, recent = columns(10)
    with pytest.raises(ValueError, match="users"):
        MemoryBank.build(keys, values, users[:9], lengths, times, recent, index_kind="Flat", seed=0)
