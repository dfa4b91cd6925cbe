from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_ra.core import files
from recbole_ra.core.errors import RecboleRaError
from recbole_ra.core.files import (
    digest,
    read_arrays,
    whole_folder,
    write_array,
    write_arrays,
    write_bytes,
    write_json,
)

KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_write_that_fails_leaves_what_was(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a" / "file"
    write_bytes(path, b"old")

    def fail(*arguments: Any) -> None:
        raise OSError(code, "injected")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RecboleRaError, match=f"{path}: no (space left|permission)"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_no_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for below in ("one", "one/two"):
        with pytest.raises(RecboleRaError, match=r"file.*: no folder can be made there; name another"):
            write_bytes(tmp_path / "file" / below, b"")
    assert (tmp_path / "file").read_text() == "in the way"


def test_other_faults_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "folder", b"")


def test_a_folder_replaces_an_earlier_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    for name in ("old", "new"):
        with whole_folder(target) as folder:
            (folder / name).write_text("x")
            assert not (target / name).exists()
    assert [entry.name for entry in target.iterdir()] == ["new"]
    assert [entry.name for entry in target.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "injected"), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize("fails_at", ["write", "rename", "first write", "first rename"])
def test_a_folder_that_fails_leaves_what_was(
    fails_at: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, replace = tmp_path / "folder", Path.replace
    if not fails_at.startswith("first"):
        with whole_folder(target) as folder:
            (folder / "old").write_text("x")
    before = sorted(tmp_path.rglob("*"))

    def failing(self: Path, other: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise error
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", failing)

    def write() -> None:
        with whole_folder(target) as folder:
            (folder / "new").write_text("x")
            if fails_at.endswith("write"):
                raise error

    with pytest.raises(RecboleRaError if isinstance(error, OSError) else type(error)):
        write()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("left", ["tmp", "old"])
def test_leftovers_of_a_killed_process_do_no_harm(left: str, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for folder in (target, tmp_path / f".folder.{os.getpid()}.{left}"):
        folder.mkdir()
        (folder / "half").write_text("x")
    with whole_folder(target) as folder:
        (folder / "new").write_text("x")
    assert [entry.name for entry in target.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(NotADirectoryError), whole_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_json_is_sorted(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [2]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'


def test_digests_know_content_and_not_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    different = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": 1.5}, {"a": [1]}, {"a": None}, {}, []]
    assert len({digest(content) for content in different}) == len(different)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_full_disk_that_numpy_meets_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(files, "_sibling", lambda path, suffix: tmp_path / "full")
    with pytest.raises(RecboleRaError, match=r"states\.npy: no space left"):
        write_array(tmp_path / "states.npy", np.zeros(100_000))
    assert not (tmp_path / "states.npy").exists()


def test_a_remnant_of_a_longer_name_is_another_folders(tmp_path: Path) -> None:
    for name in (".beauty.v2.7.old", ".beauty.v3.7.tmp", ".beauty.8.tmp", ".beauty.9.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "of").write_text(name)
    files.put_back(tmp_path / "beauty")
    assert (tmp_path / "beauty" / "of").read_text() == ".beauty.9.old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        ".beauty.v2.7.old", ".beauty.v3.7.tmp", "beauty"
    ]  # fmt: skip


def test_a_folder_with_brackets_in_its_name_is_put_back(tmp_path: Path) -> None:
    (tmp_path / ".my[1].7.old").mkdir()
    files.put_back(tmp_path / "my[1]")
    assert [entry.name for entry in tmp_path.iterdir()] == ["my[1]"]


def test_whatever_bit_of_an_archive_is_flipped_it_is_read_or_not(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", items=np.arange(3))
    content = (tmp_path / "x.npz").read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        (tmp_path / "y.npz").write_bytes(flipped)
        found = read_arrays(tmp_path / "y.npz", ["items"])
        assert found is None or found[0].tolist() == [0, 1, 2]
