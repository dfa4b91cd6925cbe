"""Damaged stores: the stage is made again, with one line and the same results."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hostile.arena import EVERYTHING, MADE, Arena, Case, judge, result_of
from hostile.arena import stored as names
from hostile.damage import artifact, be_folder, be_loop, be_pickle, cut, flip, grow
from hostile.nursery import Nursery
from recbole_ra.core.store import MANIFEST, damage_of, fingerprints

pytestmark = pytest.mark.slow

FILES = {
    "teacher": ("best.pt", "last.pt", "history.json"),
    "regenerator": ("best.pt", "last.pt", "history.json"),
    "decoded": ("decoded.npz",),
    "backbone": ("best.pt", "last.pt", "history.json"),
    "bank": ("train_states.npy", "bank/index.bin", "bank/memories.npz"),
    "raft": ("best.pt", "last.pt", "history.json"),
}
AFTER = {"teacher": ("regenerator", "decoded"), "regenerator": ("decoded",)}
"""Artifacts without which a stage's own is looked at."""


class Damage(NamedTuple):
    """A row: an artifact, and what is done to it."""

    stage: str
    name: str
    make: Callable[[Path], Any]
    line: str
    kind: str = "store"

    def __str__(self) -> str:
        return f"{self.stage}: {self.name}"


def other_dtype(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float16))


def fewer_rows(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def other_arrays(change: Callable[[dict[str, Any]], Any], path: Path) -> None:
    with np.load(path) as found:
        arrays = dict(found)
    change(arrays)
    np.savez(path, **arrays)


def of_file(name: str, act: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: act(folder / name)


def of_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Change what the manifest says."""

    def make(folder: Path) -> None:
        content = json.loads((folder / MANIFEST).read_text())
        content = change(content) or content
        (folder / MANIFEST).write_text(json.dumps(content))

    return make


def be_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def be_lost_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("away")


def be_unfinished(content: bytes | None) -> Callable[[Path], None]:
    """Have no artifact, and in place of one in progress a file, or a folder with a useless checkpoint."""

    def make(folder: Path) -> None:
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(folder)
        if content is None:
            part.write_text("x")
        else:
            part.mkdir()
            (part / "last.pt").write_bytes(content)
            (part / "block-000000-x.npz").write_bytes(content)

    return make


CHANGED = [
    ("a bit of {} flipped", flip, "was changed"),
    ("{} cut", cut, "was changed"),
    ("{} longer", grow, "was changed"),
    ("{} missing", Path.unlink, "is missing"),
    ("{} a folder", be_folder, "is missing"),
]
DAMAGES = [
    Damage(stage, name.format(file), of_file(file, act), f"{file} {line}")
    for stage, files in FILES.items()
    for file in files
    for name, act, line in CHANGED
]
MANIFESTS = [
    ("missing", of_file(MANIFEST, Path.unlink), "is missing or damaged"),
    ("a folder", of_file(MANIFEST, be_folder), "is missing or damaged"),
    ("a link to itself", of_file(MANIFEST, be_loop), "is missing or damaged"),
    ("cut", of_file(MANIFEST, cut), "is missing or damaged"),
    ("empty", of_file(MANIFEST, lambda path: path.write_text("")), "is missing or damaged"),
    ("a list", of_file(MANIFEST, lambda path: path.write_text("[]")), "is missing or damaged"),
    ("without key", of_file(MANIFEST, lambda path: path.write_text("{}")), "is missing or damaged"),
    ("nested deep", of_file(MANIFEST, lambda path: path.write_text("[" * 10**5)), "is missing or damaged"),
    ("binary", of_file(MANIFEST, lambda path: path.write_bytes(b"\xff\0")), "is missing or damaged"),
    ("of another key", of_manifest(lambda told: told.update(key="x")), "names another key"),
    ("of files that are text", of_manifest(lambda told: told.update(files="x")), "is missing or damaged"),
    ("of files that are numbers", of_manifest(lambda told: told.update(files=5)), "is missing or damaged"),
    ("of one file more", of_manifest(lambda told: told["files"].update(x=[1, "y"])), "x is missing"),
    ("of another size", of_manifest(lambda told: told.update(files={name: [1, about[1]] for name, about in told["files"].items()})), "was changed"),
    ("of sizes that are text", of_manifest(lambda told: told.update(files=dict.fromkeys(told["files"], "x"))), "was changed"),
]  # fmt: skip
DAMAGES += [
    Damage(stage, f"manifest {name}", act, line)
    for number, (name, act, line) in enumerate(MANIFESTS)
    for stage in [list(FILES)[number % len(FILES)]]
]
DAMAGES += [Damage(stage, "is a file", be_file, "is missing or damaged") for stage in FILES]
DAMAGES += [
    Damage(stage, "is a lost link", be_lost_link, "is missing or damaged") for stage in ("bank", "raft")
]
DAMAGES += [
    Damage("bank", "states of another type", of_file("train_states.npy", other_dtype), "was changed"),
    Damage("bank", "states of fewer rows", of_file("train_states.npy", fewer_rows), "was changed"),
    Damage("bank", "states a pickle", of_file("train_states.npy", be_pickle), "was changed"),
    Damage("bank", "memories a pickle", of_file("bank/memories.npz", be_pickle), "was changed"),
    Damage("decoded", "a pickle", of_file("decoded.npz", be_pickle), "was changed"),
    Damage("raft", "a pickle", of_file("best.pt", be_pickle), "was changed"),
    Damage("decoded", "items out of range", of_file("decoded.npz", functools.partial(other_arrays, lambda arrays: arrays["items"].fill(999))), "was changed"),
    Damage("bank", "memories of others", of_file("bank/memories.npz", functools.partial(other_arrays, lambda arrays: arrays["users"].fill(-1))), "was changed"),
]  # fmt: skip
ANEW = [
    Damage(stage, name, be_unfinished(content), "")
    for stage in FILES
    for name, content in (("in progress is a file", None), ("in progress is rubbish", b"rubbish"))
]


class Made(NamedTuple):
    """What one whole run left."""

    folder: Path
    result: dict[str, Any]


@pytest.fixture(scope="module")
def made(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made") / "arena"
    folder.mkdir()
    arena = Arena(folder, nursery)
    judge(arena.run(EVERYTHING), 0, "result: runs/")
    result = result_of(folder)
    shutil.rmtree(folder / "runs")
    return Made(folder, result)


@pytest.fixture
def stored(made: Made, arena: Arena) -> Arena:
    """An arena with a whole store."""
    shutil.copytree(made.folder / "saved", arena.folder / "saved")
    return arena


def judge_store(folder: Path) -> None:
    """See that every artifact is whole."""
    for path in folder.glob("saved/[!.]*"):
        key = json.loads((path / MANIFEST).read_text())["key"]
        assert damage_of(path, key) is None


@pytest.mark.parametrize("case", DAMAGES, ids=str)
def test_damage_is_said_and_mended(case: Damage, stored: Arena, made: Made) -> None:
    for stage in AFTER.get(case.stage, ()):
        shutil.rmtree(artifact(stored.folder, stage))
    case.make(artifact(stored.folder, case.stage))
    ended = stored.run(EVERYTHING)
    judge(ended, 0, f"{case.stage}: saved/{case.stage}-.*{case.line}; made again\n")
    assert ended.err.count("made again") == 1, ended.err
    assert f"{case.stage}: reused" not in ended.err
    assert result_of(stored.folder) == made.result
    assert names(stored.folder) == names(made.folder)
    assert not (stored.folder / "pwned").exists()
    judge_store(stored.folder)


@pytest.mark.parametrize("case", ANEW, ids=str)
def test_what_lies_in_the_way_is_replaced(case: Damage, stored: Arena, made: Made) -> None:
    for stage in AFTER.get(case.stage, ()):
        shutil.rmtree(artifact(stored.folder, stage))
    case.make(artifact(stored.folder, case.stage))
    judge(stored.run(EVERYTHING), 0, "result: runs/")
    assert result_of(stored.folder) == made.result
    assert names(stored.folder) == names(made.folder)
    judge_store(stored.folder)


def resealed(stage: str, file: str, act: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Damage a file and have the manifest say that this is right."""

    def make(folder: Path) -> None:
        path = artifact(folder, stage)
        act(path / file)
        told = json.loads((path / MANIFEST).read_text())
        told["files"] = fingerprints(path, [path / name for name in told["files"]])
        (path / MANIFEST).write_text(json.dumps(told))

    return make


RESEALED = [
    Case("store edited on purpose", name, EVERYTHING, line, 2, resealed(stage, file, act), late=True)
    for name, line, stage, file, act in (
        ("weights a pickle", "best.pt: not a readable checkpoint", "raft", "best.pt", be_pickle),
        ("weights cut", "best.pt: not a readable checkpoint", "backbone", "best.pt", cut),
        ("states a pickle", "train_states.npy", "bank", "train_states.npy", be_pickle),
        ("memories a pickle", "memories.npz: is missing or damaged", "bank", "bank/memories.npz", be_pickle),
        ("index cut", "index.bin: is missing, damaged", "bank", "bank/index.bin", cut),
        ("decoded a pickle", "decoded.npz: missing or damaged", "decoded", "decoded.npz", be_pickle),
        ("history cut", "history.json", "backbone", "history.json", cut),
    )
]


@pytest.mark.parametrize("case", RESEALED, ids=str)
def test_an_edited_store_runs_no_code(case: Case, stored: Arena) -> None:
    stored.check(case)
    assert not (stored.folder / "pwned").exists()


def test_the_comparison_sees_another_result(made: Made, arena: Arena) -> None:
    """Other settings give another result, so that equal results mean something."""
    judge(arena.run(EVERYTHING + " --seed=1"), 0, "result: runs/")
    assert result_of(arena.folder) != made.result
    assert set(MADE) <= {path.name for path in arena.folder.iterdir()}
