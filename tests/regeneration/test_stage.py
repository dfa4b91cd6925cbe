"""Regeneration as part of whole runs: every kind of training data, reuse, leakage, export."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_ra import run
from recbole_ra.core.errors import CheckpointError, DataError, RecboleRaError, SettingsError
from walks import REGENERATION, silent

pytestmark = pytest.mark.usefixtures("undrawn")


def test_second_start_trains_nothing_again(regenerating: dict[str, Any]) -> None:
    first = run("RaSASRec", **regenerating, say=silent)
    second = run("RaSASRec", **regenerating, say=silent)
    assert first.reused == []
    assert second.reused == ["decoded", "backbone", "bank", "raft"]
    assert second.test == first.test
    assert second.regeneration == first.regeneration


def test_what_was_regenerated_serves_every_model(regenerating: dict[str, Any]) -> None:
    regenerating |= {"MAX_ITEM_LIST_LENGTH": 14, "epochs": 1, "raft_epochs": 1}
    run("DR4SR", **regenerating, say=silent)
    assert run("SASRec", **regenerating, say=silent).reused == ["decoded"]
    other = {k: v for k, v in regenerating.items() if k not in ("inner_size", "n_layers")}
    assert run("RaNARM", **other, memory_data="regenerated", say=silent).reused == ["decoded"]
    optimised = {
        "learner": "sgd",
        "ema_decay": 0.5,
        "targets_per_pass": 2,
        "clip_grad_norm": {"max_norm": 1.0},
    }
    assert run("SASRec", **{**regenerating, **optimised}, say=silent).reused == ["decoded"]
    assert run("DR4SR", **{**regenerating, **optimised}, say=silent).reused == ["teacher"]
    changed = run("SASRec", **{**regenerating, "gamma": 0.1}, say=silent)
    assert changed.reused == ["regenerator"]
    changed = run("SASRec", **{**regenerating, "diversity": False}, say=silent)
    assert changed.reused == ["teacher"]


@pytest.mark.parametrize(
    "change",
    [
        {"regenerate": "patterns"},
        {"regenerate": "patterns", "regenerate_origins": "pattern"},
        {"regenerate_origins": "original+regenerated", "diversity": False},
        {"fidelity_rank": 10, "variant": "released", "original_copies": 2},
        {"MAX_ITEM_LIST_LENGTH": 4, "variant": "released"},
        {"memory_data": "regenerated", "memory_source": "both"},
        {"regenerate_epochs": 2, "promoter_agrees": True},
        {"deduplicate": "decoded", "min_multiplicity": 2, "row_weight": "both"},
        {"position_offset": "random", "positions": "start"},
    ],
    ids=lambda change: ",".join(map(str, change.values())),
)
def test_options_run_to_a_test_result(change: dict[str, Any], regenerating: dict[str, Any]) -> None:
    result = run("RaSASRec", **{**regenerating, **change}, say=silent)
    assert result.test["unmasked"]["recall@5"] > 0.5  # by chance .17
    assert result.regeneration["training_targets"] > 0
    pictures = {path.name for path in Path(result.folder).iterdir()}
    assert {"regeneration.txt", "regeneration.png", "result.json"} <= pictures


def reading(regenerating: dict[str, Any], made: Path | str) -> dict[str, Any]:
    """Settings of a run on what another one regenerated."""
    kept = {key: value for key, value in regenerating.items() if key not in REGENERATION}
    return {**kept, "regenerate": str(made)}


def test_the_exported_set_trains_to_the_same_result(regenerating: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "made" / "walks-dr4sr"
    made = run("DR4SR", **regenerating, export_dir=str(target), say=silent)
    assert made.test == {}
    assert "regenerated" in made.table()
    names = {path.name for path in target.iterdir()}
    assert {f"walks-dr4sr.{split}.inter" for split in ("train", "valid", "test")} <= names
    assert {"manifest.json", "sequences.tsv", "walks-dr4sr.yaml", "regeneration.png"} <= names
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["statistics"] == made.regeneration["statistics"]
    direct = run("SASRec", **regenerating, say=silent)
    from_files = run("SASRec", **reading(regenerating, target), say=silent)
    assert from_files.test == direct.test
    assert from_files.reused == ["backbone"]  # the same bytes: there is nothing to train again
    twice = run("SASRec", **regenerating, original_copies=2, say=silent)
    from_files = run("SASRec", **reading(regenerating, target), original_copies=2, say=silent)
    assert twice.reused == ["decoded"]
    assert from_files.test == twice.test
    assert from_files.reused == ["backbone"]

    as_it_was_made = run("SASRec", **{**regenerating, "regenerate": str(target)}, say=silent)
    assert as_it_was_made.test == direct.test
    wrong = r"gamma=0\.3 has no effect on what .* holds already, made with 0\.5; leave it out"
    with pytest.raises(SettingsError, match=wrong):
        run("SASRec", **reading(regenerating, target), gamma=0.3, say=silent)
    with pytest.raises(DataError, match="exists already"):
        run("DR4SR", **regenerating, export_dir=str(target), say=silent)
    run("DR4SR", **regenerating, export_dir=str(target), overwrite=True, say=silent)
    assert (target / "manifest.json").is_file()
    (target / "love.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds 'love\.txt', which is not ours"):
        run("DR4SR", **regenerating, export_dir=str(target), overwrite=True, say=silent)
    assert not [path.name for path in target.parent.iterdir() if path != target]


def test_copies_of_originals_are_not_copied_again(regenerating: dict[str, Any], tmp_path: Path) -> None:
    target, kind = tmp_path / "made", {"regenerate": "patterns"}
    run("DR4SR", **{**regenerating, **kind}, original_copies=2, export_dir=str(target), say=silent)
    twice = run("SASRec", **{**regenerating, **kind}, original_copies=2, say=silent)
    for given in ({}, {"original_copies": 2}):
        from_files = run("SASRec", **reading(regenerating, target), **given, say=silent)
        assert from_files.reused == ["backbone"]
        assert from_files.test == twice.test
        assert from_files.regeneration["settings"]["original_copies"] == 2
    plus = {**reading(regenerating, f"{target}+"), "original_copies": 2}
    personalised = run("SASRec", **plus, evaluate_test=False, say=silent)
    assert personalised.regeneration["training_rows"] == twice.regeneration["training_rows"]
    once, thrice = (
        run("SASRec", **reading(regenerating, target), original_copies=copies, say=silent).regeneration
        for copies in (1, 3)
    )
    originals = twice.regeneration["training_rows"] - once["training_rows"]
    assert thrice["training_rows"] == once["training_rows"] + 2 * originals

    file = target / "sequences.tsv"
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(rows[:1] + rows[2:]))  # an original is gone
    with pytest.raises(
        DataError, match=r"sequences\.tsv: was cut or changed since manifest\.json was written"
    ):
        run("SASRec", **reading(regenerating, target), say=silent)
    forget_the_digest(target)
    with pytest.raises(DataError, match=r"sequences\.tsv: \d+ original rows are not 2 copies"):
        run("SASRec", **reading(regenerating, target), say=silent)


def forget_the_digest(made: Path) -> None:
    """Let the manifest of a set know no file any more, as if its rows came from elsewhere."""
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps({**manifest, "files": {}}))


def test_rows_that_nothing_vouches_for_are_told(regenerating: dict[str, Any], tmp_path: Path) -> None:
    """A set whose manifest is damaged, or is none, may be somebody's own; it is not read in silence."""
    target = tmp_path / "made"
    run("DR4SR", **{**regenerating, "regenerate": "patterns"}, export_dir=str(target), say=silent)
    given = {**reading(regenerating, target), "epochs": 1, "evaluate_test": False}

    def unchecked() -> bool:
        said: list[str] = []
        run("SASRec", **given, say=said.append)
        return any("of this data set and split, and complete, is not checked" in line for line in said)

    assert not unchecked()
    file = target / "sequences.tsv"
    file.write_text(file.read_text() + "pattern\t\t\ti1 i2\n")
    with pytest.raises(DataError, match=r"was cut or changed .*delete manifest\.json"):
        unchecked()
    for content in ("{", "[]"):
        (target / "manifest.json").write_text(content)
        assert unchecked()
    (target / "manifest.json").unlink()
    assert unchecked()


def test_statistics_are_those_of_the_rows_that_train(regenerating: dict[str, Any], tmp_path: Path) -> None:
    for change in ({"min_multiplicity": 2}, {"regenerate_origins": "pattern"}):
        target = tmp_path / "-".join(change)
        made = run("DR4SR", **regenerating, **change, export_dir=str(target), say=silent)
        rows = [line.split("\t")[0] for line in (target / "sequences.tsv").read_text().splitlines()[1:]]
        told = made.regeneration["statistics"]["origins"]
        assert {origin: about["rows"] for origin, about in told.items()} == dict(Counter(rows))
        assert json.loads((target / "manifest.json").read_text())["statistics"]["origins"] == told


def test_a_set_stays_as_it_was_made_where_it_is_read(regenerating: dict[str, Any], tmp_path: Path) -> None:
    made, again = tmp_path / "made", tmp_path / "again"
    settings = {**regenerating, "gamma": 0.3, "deduplicate": "decoded", "min_multiplicity": 2}
    rows = run("DR4SR", **settings, export_dir=str(made), say=silent).regeneration["training_rows"]
    settings |= {"regenerate": str(made), "export_dir": str(again), "evaluate_test": False}
    kept = run("SASRec", **settings, say=silent)
    assert kept.regeneration["training_rows"] == rows
    assert kept.regeneration["statistics"]["origins"]["regenerated"]["rows"] > 0
    first, second = (json.loads((place / "manifest.json").read_text())["settings"] for place in (made, again))
    assert second.items() >= {**first, "regenerate": str(made)}.items()


def test_the_files_of_an_export_hold_the_same_rows(regenerating: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "made"
    only = {"regenerate": "patterns", "regenerate_origins": "pattern", "export_dir": str(target)}
    run("DR4SR", **{**regenerating, **only}, say=silent)
    rows = [line.split("\t") for line in (target / "sequences.tsv").read_text().splitlines()[1:]]
    assert {row[0] for row in rows} == {"pattern"}
    targets = sum(len(row[3].split()) - 1 for row in rows)
    assert len((target / "made.train.inter").read_text().splitlines()) == 1 + targets


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_came_in_the_meantime_is_not_lost(
    overwrite: bool, regenerating: dict[str, Any], tmp_path: Path
) -> None:
    target = tmp_path / "made"
    if overwrite:
        run("DR4SR", **regenerating, export_dir=str(target), say=silent)

    def say(line: str) -> None:
        if line.startswith("training data"):
            target.mkdir(exist_ok=True)
            (target / "love.txt").write_text("x")

    with pytest.raises(DataError, match="not ours" if overwrite else "exists already"):
        run("DR4SR", **regenerating, export_dir=str(target), overwrite=overwrite, say=say)
    assert (target / "love.txt").read_text() == "x"
    assert (target / "manifest.json").exists() == overwrite
    assert not list(tmp_path.glob(".made*"))


def test_a_failing_export_leaves_the_old_one(
    regenerating: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, replace = tmp_path / "made", Path.replace
    run("DR4SR", **regenerating, export_dir=str(target), say=silent)
    before = (target / "manifest.json").read_bytes()

    def failing(self: Path, other: Path) -> Path:
        if self.name.endswith(".tmp") and other == target:
            raise OSError(28, "No space left on device")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(RecboleRaError, match="made: no space left on the disk"):
        run("DR4SR", **{**regenerating, "gamma": 0.1}, export_dir=str(target), overwrite=True, say=silent)
    assert (target / "manifest.json").read_bytes() == before
    assert not list(tmp_path.glob(".made*"))


def test_what_cannot_be_written_is_refused_before_training(
    regenerating: dict[str, Any], tmp_path: Path
) -> None:
    only_valid = {"eval_args": {"split": {"LS": "valid_only"}}}
    with pytest.raises(DataError, match="data set 'walks': benchmark files need validation and test rows"):
        run("DR4SR", **regenerating, **only_valid, say=silent)
    data = write_inter(tmp_path / "odd", [[1, 2, 3, 4, 5, 1, 2, 3]] * 9)
    file = data / "walks" / "walks.inter"
    file.write_text(file.read_text().replace("\ti3\t", "\t[PAD]\t"))
    with pytest.raises(DataError, match=r"data set 'walks': item '\[PAD\]' is no name to RecBole"):
        run("DR4SR", **{**regenerating, "data_path": str(data)}, say=silent)
    assert not (tmp_path / "saved").exists()


def test_a_set_of_another_split_is_refused(regenerating: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "made"
    shares = {"eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}}
    run("DR4SR", **regenerating, **shares, export_dir=str(target), say=silent)
    given = reading(regenerating, target)
    for kept in ("original+pattern+regenerated", "pattern"):
        with pytest.raises(DataError, match="another data set or split"):
            run("SASRec", **given, regenerate_origins=kept, say=silent)
    (target / "manifest.json").unlink()  # its original rows give it away too
    with pytest.raises(DataError, match="are not their user's training sequence"):
        run("SASRec", **given, regenerate_origins="pattern", say=silent)


@pytest.mark.parametrize(
    ("place", "words"),
    [("a.txt/made", "no folder can be made there"), ("a.txt", "is a file"), ("ml-100k", "is no name for")],
)
def test_places_that_cannot_be_written(
    place: str, words: str, regenerating: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(RecboleRaError, match=words):
        run("DR4SR", **regenerating, export_dir=str(tmp_path / place), say=silent)
    assert not (tmp_path / "saved").exists()  # refused before anything was trained


def write_inter(folder: Path, sequences: list[list[int]]) -> Path:
    """An atomic file; returns the folder of data sets."""
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, sequence in enumerate(sequences):
        rows += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(sequence)]
    (folder / "walks").mkdir(parents=True)
    (folder / "walks" / "walks.inter").write_text("\n".join(rows) + "\n")
    return folder


def test_validation_and_test_items_change_no_byte(regenerating: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    walks = []
    for _ in range(60):
        start, length = rng.integers(20), rng.integers(5, 12)
        walks.append([int((start + step + rng.integers(2)) % 20) for step in range(length)])
    # The first user's come first in the file, so that they change the ids of all items.
    others = [[*walk[:-2], *rng.permutation(20)[:2].tolist()] for walk in walks]
    assert sum(walk != other for walk, other in zip(walks, others, strict=True)) > 50

    def regenerate(name: str, sequences: list[list[int]], **change: Any) -> dict[str, bytes]:
        own = {
            **regenerating,
            "data_path": str(write_inter(tmp_path / name, sequences)),
            "checkpoint_dir": str(tmp_path / name / "saved"),
            "export_dir": str(tmp_path / name / "made"),
            "user_inter_num_interval": None,
            "fidelity_rank": 15,
            **change,
        }
        run("DR4SR", **own, say=silent)
        (decoded,) = (tmp_path / name / "saved").glob("decoded-*/decoded.npz")
        with np.load(decoded) as arrays:
            found = {f"decoded.{name}": values.tobytes() for name, values in arrays.items()}
        sequences_file = (tmp_path / name / "made" / "sequences.tsv").read_bytes()
        return found | weights(tmp_path / name / "saved") | {"sequences": sequences_file}

    first = regenerate("one", walks)
    assert {"decoded.items", "sequences", "teacher.backbone.item_embedding.weight"} <= set(first)
    assert b"regenerated\t" in first["sequences"]
    assert regenerate("again", walks) == first  # determinism: same seed, same bytes
    assert regenerate("other", others) == first  # leakage
    assert regenerate("seed", walks, seed=1)["decoded.items"] != first["decoded.items"]


def weights(saved: Path) -> dict[str, bytes]:
    """Every weight of the selected teacher and regenerator."""
    import torch

    found = {}
    for stage in ("teacher", "regenerator"):
        (path,) = saved.glob(f"{stage}-*/best.pt")
        for name, value in torch.load(path, weights_only=True)["state_dict"].items():
            found[f"{stage}.{name}"] = value.numpy().tobytes()
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gamma": 1.5}, "gamma=1.5 must be between 0 and 1"),
        ({"n_latents": 0}, "n_latents=0 must be >= 1"),
        ({"regenerate": "dr4rs"}, "did you mean 'dr4sr'"),
        ({"regenerate_origins": "original+paterns"}, "did you mean 'pattern'"),
        ({"regenerator_width": 15}, "regenerator_width=15 must be even"),
        ({"regenerate": "none", "memory_data": "regenerated"}, "nothing is regenerated"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], words: str, regenerating: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=words):
        run("SASRec", **{**regenerating, **change}, say=silent)


def test_a_data_set_without_patterns(regenerating: dict[str, Any]) -> None:
    none = "no pattern occurs in 500 sequences within 5 positions; lower --min_support, or widen --window"
    with pytest.raises(DataError, match=f"{none}, or do without patterns"):
        run("SASRec", **regenerating, min_support=500, say=silent)
    with pytest.raises(DataError, match=f"{none}$"):
        run("DR4SR", **regenerating, min_support=500, say=silent)


def test_a_regenerator_of_another_vocabulary(regenerating: dict[str, Any], tmp_path: Path) -> None:
    run("DR4SR", **regenerating, say=silent)
    (checkpoint,) = (tmp_path / "saved").glob("regenerator-*/best.pt")
    given = {**regenerating, "regenerator_checkpoint": str(checkpoint)}
    assert run("DR4SR", **given, say=silent).reused == ["regenerator"]
    data = write_inter(tmp_path / "other", [[1, 2, 3, 4, 5, 1, 2, 3]] * 9)
    with pytest.raises(CheckpointError, match="was trained on another item vocabulary"):
        run("DR4SR", **{**given, "data_path": str(data)}, say=silent)
    with pytest.raises(CheckpointError, match="do not fit the model's settings"):
        run("DR4SR", **{**given, "n_latents": 3}, say=silent)
    with pytest.raises(
        CheckpointError, match="was trained with variant=paper, not released; set it to match"
    ):
        run("DR4SR", **{**given, "variant": "released"}, say=silent)
    with pytest.raises(CheckpointError, match="was trained on other training rows than 'walks' has now"):
        run("DR4SR", **{**given, "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}}, say=silent)


def test_a_given_regenerator_and_fidelity_without_a_teacher(
    regenerating: dict[str, Any], tmp_path: Path
) -> None:
    made = run("DR4SR", **regenerating, fidelity_rank=5, say=silent)
    (checkpoint,) = (tmp_path / "saved").glob("regenerator-*/best.pt")
    elsewhere = {**regenerating, "checkpoint_dir": str(tmp_path / "empty"), "fidelity_rank": 5}
    again = run("DR4SR", **elsewhere, regenerator_checkpoint=str(checkpoint), say=silent)
    assert again.regeneration["statistics"] == made.regeneration["statistics"]


def test_only_a_data_set_is_made_by_the_regenerator(regenerating: dict[str, Any]) -> None:
    for kind in ("none", regenerating["data_path"]):
        with pytest.raises(SettingsError, match="model DR4SR makes a data set"):
            run("DR4SR", **{**regenerating, "regenerate": kind}, say=silent)
