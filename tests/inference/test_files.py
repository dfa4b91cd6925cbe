"""A saved recommender is whole, needs no data, and is not used if it is damaged."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import recbole_ra
from recbole_ra.cli import main
from recbole_ra.core.errors import CheckpointError, RecboleRaError
from recbole_ra.core.store import MANIFEST
from recbole_ra.inference import loading
from recbole_ra.inference.files import editing
from recbole_ra.inference.journal import Change, Journal


@pytest.fixture
def copy(trained: Callable[[str], Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained("RaSASRec").folder, tmp_path / "run")) / "model"


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


FILES = [
    "bank/index.bin",
    "bank/memories.npz",
    "histories.npz",
    "items.parquet",
    "manifest.json",
    "users.parquet",
    "weights.pt",
]


def test_the_folder_holds_what_is_promised(trained: Callable[[str], Any]) -> None:
    assert files_of(trained("RaSASRec").folder / "model") == FILES
    without = [name for name in FILES if not name.startswith("bank/")]
    assert files_of(trained("SASRec").folder / "model") == without
    manifest = json.loads((trained("RaSASRec").folder / "model" / MANIFEST).read_text())
    assert manifest["about"]["versions"] == trained("RaSASRec").result.versions
    assert manifest["about"]["settings"]["n_neighbors"] == 5
    assert set(manifest["files"]) == {*FILES} - {MANIFEST}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["flipped", "cut", "missing"])
def test_damage_is_one_clear_error(name: str, change: str, copy: Path) -> None:
    content = bytearray((copy / name).read_bytes())
    if change == "flipped":
        content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content[: len(content) // 2] if change == "cut" else content)
    if change == "missing":
        (copy / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        recbole_ra.load(copy.parent)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value) or name == MANIFEST


class Shout:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_that_is_loaded_is_executed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the manifest was made to match."""
    from recbole_ra.core.store import fingerprints

    torch.save({"fusion": Shout()}, copy / "weights.pt")
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"] = fingerprints(copy, [copy / name for name in manifest["files"]])
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"weights\.pt: is not readable"):
        recbole_ra.load(copy)
    assert "executed" not in capsys.readouterr().out
    pickle.loads(pickle.dumps(Shout()))
    assert "executed" in capsys.readouterr().out  # it would have


def test_another_format_names_it(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["about"]["format"] = 99
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is of format 99, this version reads 2"):
        recbole_ra.load(copy)


def test_a_path_without_a_recommender_says_why(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run folder; train a model first"):
        recbole_ra.load(tmp_path / "nowhere")
    shutil.rmtree(copy)
    with pytest.raises(CheckpointError, match="trials of a sweep, runs that only regenerate"):
        recbole_ra.load(copy.parent)


def test_saving_replaces_no_other_folder(recommender: recbole_ra.Recommender, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="exists and holds no recommender"):
        recommender.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_save_that_fails_leaves_what_was_there(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = recbole_ra.load(copy)
    recommender.add([("u1", "i1", 1e6)])

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_ra.inference.files.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        recommender.save()
    assert files_of(copy) == FILES
    assert recbole_ra.load(copy).add([("u1", "i1", 1e6)]).events == 1  # it was not there yet
    assert [path.name for path in copy.parent.iterdir() if path.name.startswith(".model")] == [".model.lock"]


def test_who_holds_latest_changes_the_run_that_it_was(copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy.parent, tmp_path / "other")) / "model"
    latest = tmp_path / "latest"
    latest.symlink_to(copy.parent)
    before = contents_of(other)
    with editing(latest, lambda: None) as folder:
        recommender = recbole_ra.load(folder)
        journal = Journal(folder)
        journal.append([Change((("u1", "i1", 1e6),))])
        latest.unlink()
        latest.symlink_to(other.parent)
        recommender.add([("u1", "i1", 1e6)])
        journal.compact(recommender)
        journal.close()
    assert contents_of(other) == before
    assert recbole_ra.load(copy).add([("u1", "i1", 1e6)]).events == 0


def test_the_library_saves_nothing_over_what_others_changed(copy: Path) -> None:
    mine = recbole_ra.load(copy)
    with editing(copy, lambda: None), pytest.raises(CheckpointError, match="another process serves or"):
        mine.add([("u1", "i1", 1e6)], save=True)
    journal = Journal(copy)
    journal.append([Change((("u2", "i2", 1e6),))])
    with pytest.raises(CheckpointError, match="was changed since it was loaded"):
        mine.save()
    fresh = recbole_ra.load(copy)
    fresh.add([("u1", "i1", 1e6)], save=True)
    fresh.add([("u1", "i3", 2e6)], save=True)
    again = recbole_ra.load(copy)
    known = again.add([("u1", "i1", 1e6), ("u1", "i3", 2e6), ("u2", "i2", 1e6)])
    assert (known.events, known.known) == (0, 3)


def test_a_recommender_that_is_saved_while_it_is_read_is_read_again(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = loading.read_data
    saved = []

    def saved_meanwhile(folder: Path) -> Any:
        found = read(folder)
        if not saved:
            saved.append(folder)
            monkeypatch.setattr(loading, "read_data", read)
            recbole_ra.load(folder).add([("ada", "i1", 1.0), ("ada", "i2", 2.0)], save=True)
        return found

    monkeypatch.setattr(loading, "read_data", saved_meanwhile)
    found = recbole_ra.load(copy)
    assert "ada" in found.users
    assert len(found.users) == len(found.histories)
    assert found.memory is not None
    assert found.memory.bank.users.max() < len(found.users)


def test_a_command_waits_for_who_changes_the_run(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = tmp_path / "events.csv"
    events.write_text("user,item,time\nada,i1,1\nada,i2,2\n")
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["add", str(copy.parent), str(events)])))
    with editing(copy, lambda: None):
        thread.start()
        said, end = "", time.monotonic() + 30
        while "another process changes it; waiting" not in said:
            assert time.monotonic() < end
            time.sleep(0.05)
            said += capsys.readouterr().err
        assert "ada" not in recbole_ra.load(copy).users
    thread.join()
    assert codes == [0]
    assert "ada" in recbole_ra.load(copy).users


def test_what_a_save_replaced_and_stays_is_told(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asked for it to be erased, perhaps."""
    recommender = recbole_ra.load(copy)
    recommender.forget("u1")
    monkeypatch.setattr("recbole_ra.core.files.remove", lambda path: None)
    with pytest.raises(RecboleRaError, match=r"\.old: holds what was saved before, and cannot be deleted"):
        recommender.save(copy)
    assert "u1" not in recbole_ra.load(copy).users
