"""A saved recommender is whole, needs no data, and is not used if it is damaged."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import recbole_ra
from recbole_ra.core.errors import CheckpointError
from recbole_ra.core.store import MANIFEST


@pytest.fixture
def copy(trained: Callable[[str], Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained("RaSASRec").folder, tmp_path / "run")) / "model"


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


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
    assert [path.name for path in copy.parent.iterdir() if path.name.startswith(".model")] == []
