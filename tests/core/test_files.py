from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_ra.core.errors import RecboleRaError
from recbole_ra.core.files import ArtifactStore, digest, whole_folder, write_bytes, write_json

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


def test_an_artifact_is_found_when_it_is_finished(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.find("bank", KEY) is None
    (store.start("bank", KEY, resume=False) / "data").write_text("x")
    assert store.find("bank", KEY) is None
    folder = store.finish("bank", KEY, {"seed": 1})
    assert store.find("bank", KEY) == folder
    assert (folder / "data").read_text() == "x"
    assert json.loads((folder / "manifest.json").read_text())["inputs"] == {"seed": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == [folder.name]


def test_only_resumed_work_keeps_what_was_begun(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    (store.start("bank", KEY, resume=False) / "begun").write_text("x")
    assert (store.start("bank", KEY, resume=True) / "begun").exists()
    assert not (store.start("bank", KEY, resume=False) / "begun").exists()


def test_a_finished_artifact_is_replaced_whole(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    (store.start("bank", KEY, resume=False) / "old").write_text("x")
    store.finish("bank", KEY, {})
    (store.start("bank", KEY, resume=False) / "new").write_text("x")
    folder = store.finish("bank", KEY, {})
    assert sorted(entry.name for entry in folder.iterdir()) == ["manifest.json", "new"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"key": "other"}', b"\xff\xfe"])
def test_a_damaged_or_foreign_manifest_is_not_trusted(content: bytes, tmp_path: Path) -> None:
    """The folder's name holds the first 16 digits only; the manifest names the whole key."""
    store = ArtifactStore(tmp_path)
    store.start("bank", KEY, resume=False)
    folder = store.finish("bank", KEY, {})
    (folder / "manifest.json").write_bytes(content)
    assert store.find("bank", KEY) is None
    assert store.find("bank", KEY[:16] + "f" * 48) is None


HOLDER = """
import os, sys
from pathlib import Path
from recbole_ra.core.files import ArtifactStore
with ArtifactStore(Path(sys.argv[1])).held("bank", sys.argv[2], lambda: None):
    print("held", flush=True)
    sys.stdin.readline()
    os._exit(1)
"""


def test_an_artifact_is_made_by_one_process_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    store, waits = ArtifactStore(tmp_path), []
    command = [sys.executable, "-c", HOLDER, str(tmp_path), KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        def other_dies() -> None:
            waits.append(holder.poll())
            holder.stdin.write("\n")
            holder.stdin.flush()

        with store.held("bank", KEY[::-1], lambda: waits.append("of another artifact")):
            pass
        with store.held("bank", KEY, other_dies):
            pass
    assert waits == [None]
