"""What the manifest of a regenerated set says to the settings of a run that reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from recbole_ra.core.errors import SettingsError
from recbole_ra.regeneration.stage import Regenerated
from recbole_ra.settings.config import RaConfig

MADE: dict[str, Any] = {
    "gamma": 0.3,
    "window": 4,
    "deduplicate": "decoded",
    "min_multiplicity": 2,
    "decode_length": 60,
    "original_copies": 2,
}


def made(folder: Path, manifest: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest or {"settings": MADE}))
    (folder / "sequences.tsv").touch()
    return folder


def reading(folder: Path | str, **chosen: Any) -> RaConfig:
    return RaConfig("SASRec", "ml-100k", (), {"regenerate": str(folder), "use_gpu": False, **chosen})


@pytest.mark.parametrize("plus", ["", "+"])
def test_what_a_set_was_made_with_may_be_given_again(tmp_path: Path, plus: str) -> None:
    folder = made(tmp_path / "set")
    config = reading(f"{folder}{plus}", **MADE)
    assert config.regeneration.original_copies == 2
    assert reading(f"{folder}{plus}").regeneration.original_copies == 2
    assert reading(f"{folder}{plus}", original_copies=1).regeneration.original_copies == 1
    assert reading(folder / "manifest.json").regeneration.original_copies == 2


@pytest.mark.parametrize(
    "settings", [{"variant": "released", "gamma": 0.3}, {"diversity": False, "n_latents": 3}], ids=str
)
def test_what_had_no_effect_on_a_set_may_be_given_again_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    made_by = RaConfig("SASRec", "ml-100k", (), {"regenerate": "dr4sr", "use_gpu": False, **settings})
    manifest = {"settings": Regenerated.made_with(made_by)}
    reading(made(tmp_path / "set", manifest), **settings)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (
            {"gamma": 0.5},
            r"gamma=0\.5 has no effect on what .*set holds already, made with 0\.3; leave it out",
        ),
        ({"window": 5}, "window=5 has no effect on what .*, made with 4"),
        ({"deduplicate": "all"}, "deduplicate='all' has no effect on what .*, made with 'decoded'"),
        ({"min_multiplicity": 1}, "min_multiplicity=1 has no effect on what .*, made with 2"),
        ({"n_latents": 5}, "n_latents=5 has no effect on what .*set holds already; leave it out"),
        ({"row_weight": "both"}, "row_weight='both' asks how often each row was made, which .*set does not"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_would_make_other_rows_is_refused(tmp_path: Path, chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        reading(made(tmp_path / "set"), **chosen)


def test_what_is_no_set_is_told_alone(tmp_path: Path) -> None:
    """A mistyped folder is no reason to take settings away."""
    with pytest.raises(SettingsError) as told:
        reading(tmp_path / "absent", gamma=0.5, n_latents=5)
    assert "neither none, auto, dr4sr, patterns nor a file or folder" in str(told.value)
    assert "gamma" not in str(told.value)
    reading(tmp_path, gamma=0.5)  # a folder without a set; that it holds none is said where it is read


def test_a_path_given_again_may_be_spelled_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    folder = made(tmp_path / "set", {"settings": {"regenerator_checkpoint": "best.pt"}})
    for spelling in ("best.pt", "./best.pt", str(tmp_path / "best.pt")):
        assert reading(folder, regenerator_checkpoint=spelling).as_made("regenerator_checkpoint")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "5", '{"settings": [1]}', '{"settings": {"x": 1}}', "[" * 100_000, "\udcff"],
    ids=["empty", "cut", "list", "number", "settings-list", "unknown", "deep", "no-text"],
)
def test_a_manifest_that_says_nothing_changes_nothing(tmp_path: Path, content: str) -> None:
    folder = made(tmp_path / "set")
    (folder / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert reading(folder).made_with == {}
    assert reading(folder).regeneration.original_copies == 1


def test_a_pipe_is_no_manifest(tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")  # reading it would never end
    assert reading(folder).made_with == {}


@pytest.mark.parametrize("copies", [0, -1, "2", 2.5, None, [2], 10**400, True])
def test_a_wrong_number_of_copies_is_told(tmp_path: Path, copies: Any) -> None:
    folder = made(tmp_path / "set", {"settings": {"original_copies": copies}})
    with pytest.raises(
        SettingsError, match=r"its manifest says original_copies=.* must be .*write the set again"
    ):
        reading(folder)


def test_other_odd_values_are_told_apart(tmp_path: Path) -> None:
    folder = made(tmp_path / "set", {"settings": {"balance_weight": 10**400, "gamma": {"x": 1}}})
    assert reading(folder).regeneration.original_copies == 1
    with pytest.raises(SettingsError, match=r"gamma=0\.3 has no effect on what .*, made with {'x': 1}"):
        reading(folder, gamma=0.3)
