"""The artifact store reuses what is whole and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_ra.core.store import ArtifactStore

KEY = "0123456789abcdef" * 4


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


def test_resumed_work_does_not_keep_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    part = store.start("bank", KEY, resume=False)
    (part / "last.pt").write_text("whole")
    (part / ".best.pt.17.tmp").write_text("ha")
    (part / ".bank.17.tmp").mkdir()
    (part / ".bank.17.tmp" / ".index.bin.17.tmp").write_text("ha")
    store.start("bank", KEY, resume=True)
    assert [path.name for path in part.rglob("*")] == ["last.pt"]


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
    assert ArtifactStore(tmp_path).find("bank", KEY) is None
    assert ArtifactStore(tmp_path).find("bank", KEY[:16] + "f" * 48) is None


HOLDER = """
import os, sys
from pathlib import Path
from recbole_ra.core.store import ArtifactStore
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


def made(root: Path) -> Path:
    """A finished artifact of two files, one in a folder."""
    store = ArtifactStore(root)
    part = store.start("bank", KEY, resume=False)
    (part / "inner").mkdir()
    (part / "inner" / "a.bin").write_bytes(bytes(range(256)) * 100)
    (part / "b.json").write_text("[1, 2]")
    return store.finish("bank", KEY, {"of": 1})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_file(path: Path) -> None:
    for inner in sorted(path.rglob("*"), reverse=True):
        inner.rmdir() if inner.is_dir() else inner.unlink()
    path.rmdir()
    path.write_text("x")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (lambda folder: flip(folder / "inner" / "a.bin"), "a.bin was changed"),
    "cut": (lambda folder: os.truncate(folder / "inner" / "a.bin", 99), "a.bin was changed"),
    "longer": (lambda folder: (folder / "b.json").write_text("[1, 2] "), "b.json was changed"),
    "gone": (lambda folder: (folder / "b.json").unlink(), "b.json is missing"),
    "a folder": (
        lambda folder: ((folder / "b.json").unlink(), (folder / "b.json").mkdir()),
        "b.json is missing",
    ),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    "empty manifest": (lambda folder: (folder / "manifest.json").write_bytes(b""), "missing or damaged"),
    "deep manifest": (lambda folder: (folder / "manifest.json").write_text("[" * 10**5), "or damaged"),
    "manifest of no files": (
        lambda folder: (folder / "manifest.json").write_text(json.dumps({"key": KEY})),
        "or damaged",
    ),
    "manifest of odd names": (
        lambda folder: (folder / "manifest.json").write_text(json.dumps({"key": KEY, "files": [[1, 2]]})),
        "manifest.json is damaged",
    ),
    "manifest of other files": (
        lambda folder: (folder / "manifest.json").write_text(
            json.dumps({"key": KEY, "files": {"/etc/hostname": [1, "x"]}})
        ),
        "manifest.json is damaged",
    ),
    "manifest is a folder": (
        lambda folder: ((folder / "manifest.json").unlink(), (folder / "manifest.json").mkdir()),
        "or damaged",
    ),
    "artifact is a file": (replace_by_file, "or damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=list(DAMAGES))
def test_damage_is_said_once_and_the_artifact_made_again(damage: str, tmp_path: Path) -> None:
    folder = made(tmp_path)
    do, words = DAMAGES[damage]
    do(folder)
    store, said = ArtifactStore(tmp_path), []
    assert store.find("bank", KEY, said.append) is None
    assert store.find("bank", KEY, said.append) is None
    (line,) = said
    assert words in line
    assert "\n" not in line
    again = made(tmp_path)
    assert again == folder
    assert ArtifactStore(tmp_path).find("bank", KEY, said.append) == folder
    assert len(said) == 1
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [folder.name]


@pytest.mark.parametrize("resume", [False, True])
def test_a_part_that_is_a_file_gives_way(resume: bool, tmp_path: Path) -> None:
    (tmp_path / f"bank-{KEY[:16]}.part").write_text("x")
    assert ArtifactStore(tmp_path).start("bank", KEY, resume=resume).is_dir()
    assert made(tmp_path).is_dir()
