"""Checkpoints that a setting names: what is wrong with one is a line, and nothing of it runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile.arena import EVERYTHING, PLAIN, Arena, Case, judge
from hostile.damage import Runs, artifact, be_folder, be_loop, be_pickle
from hostile.nursery import Nursery

pytestmark = pytest.mark.slow


def given(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the content of the checkpoint."""

    def make(folder: Path) -> None:
        content = torch.load(folder / "given.pt", weights_only=True)
        changed = change(content)
        torch.save(content if changed is None else changed, folder / "given.pt")

    return make


def without(name: str) -> Callable[[Path], None]:
    return given(lambda content: content.pop(name) and None)


def having(**entries: Any) -> Callable[[Path], None]:
    return given(lambda content: content.update(entries))


def identity(**entries: Any) -> Callable[[Path], None]:
    return given(lambda content: content["identity"].update(entries))


def weights(change: Callable[[dict[str, Any], str], Any]) -> Callable[[Path], None]:
    return given(lambda content: change(content["state_dict"], next(iter(content["state_dict"]))) and None)


def resized(state: dict[str, Any], name: str) -> None:
    state[name] = torch.zeros(3, 3)


def renamed(state: dict[str, Any], name: str) -> None:
    state["other"] = state.pop(name)


def texted(state: dict[str, Any], name: str) -> None:
    state[name] = "x"


def filled(state: dict[str, Any], name: str) -> None:
    state[name].fill_(torch.nan)


def raw(act: Callable[[Path], Any]) -> Callable[[Path], None]:
    return lambda folder: act(folder / "given.pt")


GARBLED = "given.pt: its entry '{}' is missing or garbled; train the model again"
CHECKPOINTS = [
    Case("given checkpoints", name, f"{PLAIN} --backbone_checkpoint=given.pt", line, 2, make, late=True)
    for name, line, make in (
        ("identity null", GARBLED.format("identity"), having(identity=None)),
        ("identity text", GARBLED.format("identity"), having(identity="x")),
        ("identity missing", GARBLED.format("identity"), without("identity")),
        ("identity empty", GARBLED.format("model"), having(identity={})),
        ("identity of a number", GARBLED.format("vocabulary"), identity(vocabulary=5)),
        ("weights missing", GARBLED.format("state_dict"), without("state_dict")),
        ("weights text", GARBLED.format("state_dict"), having(state_dict="x")),
        ("weights none", "given.pt: the weights do not fit", having(state_dict={})),
        ("weights of another shape", "given.pt: the weights do not fit", weights(resized)),
        ("weights of another name", "given.pt: the weights do not fit", weights(renamed)),
        ("weights of text", "given.pt: the weights do not fit", weights(texted)),
        ("weights not numbers", "given.pt.*(not finite|not a number|NaN)", weights(filled)),
        ("history missing", GARBLED.format("history"), without("history")),
        ("history text", GARBLED.format("history"), having(history="x")),
        ("history of numbers", GARBLED.format("stage"), having(history=[1, 2])),
        ("history of other entries", GARBLED.format("stage"), having(history=[{"a": 1}])),
        ("history of text epochs", GARBLED.format("epoch"), having(history=[{"stage": "x", "epoch": "y", "loss": 1.0}])),
        ("settings text", GARBLED.format("settings"), having(settings="x")),
        ("settings missing", GARBLED.format("settings"), without("settings")),
        ("settings of the identity text", GARBLED.format("settings"), identity(settings="x")),
        ("settings of others", "given.pt: was trained with .*, not .*; set it to match", identity(settings={"hidden_size": 7})),
        ("format missing", "given.pt: not a checkpoint of recbole_ra", without("format")),
        ("format of another version", "given.pt: not a checkpoint of recbole_ra", having(format=1)),
        ("model of another name", "given.pt: holds model GRU, not SASRec; use --model to match", identity(model="GRU")),
        ("items of another data set", "another item vocabulary .7 items, here 21", identity(vocabulary="x", n_items=7)),
        ("rows of another split", "given.pt: was trained on other training rows", identity(training_part="x")),
        ("rows regenerated", "given.pt: was trained on other rows than regenerate=none gives", identity(rows="x")),
        ("a list", "given.pt: not a checkpoint of recbole_ra", given(lambda _: [1, 2])),
        ("a tensor", "given.pt: not a checkpoint of recbole_ra", given(lambda _: torch.zeros(3))),
        ("an object", "given.pt: not a readable checkpoint", given(lambda _: Runs("touch pwned"))),
        ("a pickle", "given.pt: not a readable checkpoint", raw(be_pickle)),
        ("text", "given.pt: not a readable checkpoint", raw(lambda path: path.write_text("weights"))),
        ("empty", "given.pt: not a readable checkpoint", raw(lambda path: path.write_text(""))),
        ("cut", "given.pt: not a readable checkpoint", raw(lambda path: path.write_bytes(path.read_bytes()[:-900]))),
        ("a folder", "given.pt: not a readable checkpoint", raw(be_folder)),
        ("a link to itself", "given.pt: (no such|not a readable) checkpoint", raw(be_loop)),
        ("missing", "given.pt: no such checkpoint", raw(Path.unlink)),
    )
]  # fmt: skip
CHECKPOINTS += [
    Case("given checkpoints", "of original rows, for regenerated ones", f"{EVERYTHING} --backbone_checkpoint=given.pt", "given.pt: was trained on other rows than regenerate=dr4sr gives", late=True),
    Case("given checkpoints", "a backbone as regenerator", f"{EVERYTHING} --regenerator_checkpoint=given.pt", "given.pt: holds model SASRec, not DR4SR", late=True),
    Case("given checkpoints", "good", f"{PLAIN} --backbone_checkpoint=given.pt", "backbone: loaded given.pt", 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a plain model."""
    folder = tmp_path_factory.mktemp("trained") / "arena"
    folder.mkdir()
    judge(Arena(folder, nursery).run(PLAIN), 0, "result: runs/")
    return artifact(folder, "backbone") / "best.pt"


@pytest.mark.parametrize("case", CHECKPOINTS, ids=str)
def test_given_checkpoints(case: Case, arena: Arena, trained: Path) -> None:
    shutil.copyfile(trained, arena.folder / "given.pt")
    arena.check(case)
    assert not (arena.folder / "pwned").exists()
    assert case.code == 0 or not list(arena.folder.glob("runs/*"))
