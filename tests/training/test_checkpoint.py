from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra.core.errors import CheckpointError, RecboleRaError
from recbole_ra.training.checkpoint import (
    load_checkpoint,
    load_weights,
    random_state,
    save_checkpoint,
    set_random_state,
)

CPU = torch.device("cpu")
IDENTITY = {"model": "SASRec", "vocabulary": "abc", "n_items": 40}


def draws() -> list[Any]:
    """Something of every generator, odd counts so that their inner buffers are half used."""
    return [
        torch.randn(3).tolist(),
        np.random.randn(3).tolist(),
        np.random.randint(0, 1 << 30, 3).tolist(),
        random.random(),
        random.gauss(0, 1),
        [random.getrandbits(40) for _ in range(3)],
    ]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "best.pt"
    save_checkpoint(
        path, {"identity": IDENTITY, "state_dict": torch.nn.Linear(2, 3).state_dict(), "epoch": 4}
    )
    return path


def test_every_generator_continues_where_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    draws()
    save_checkpoint(tmp_path / "last.pt", {"identity": IDENTITY, "random": random_state()})
    expected = draws()
    assert draws() != expected
    set_random_state(load_checkpoint(tmp_path / "last.pt", CPU, IDENTITY)["random"])
    assert draws() == expected


def test_a_round_trip(saved: Path) -> None:
    content = load_checkpoint(saved, CPU, IDENTITY)
    assert content["epoch"] == 4
    assert content["identity"] == IDENTITY
    layer = torch.nn.Linear(2, 3)
    load_weights(layer, content["state_dict"], saved)
    assert torch.equal(layer.weight, content["state_dict"]["weight"])
    assert [path.name for path in saved.parent.iterdir()] == ["best.pt"]


def assert_one_line(caught: pytest.ExceptionInfo[CheckpointError], path: Path) -> None:
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, keep: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="not a readable checkpoint") as caught:
        load_checkpoint(saved, CPU, IDENTITY)
    assert_one_line(caught, saved)


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"model": "DuoRec"}, "holds model SASRec, not DuoRec; use --model"),
        (
            {"vocabulary": "xyz", "n_items": 50},
            r"another item vocabulary \(40 items, here 50\); use the data set",
        ),
    ],
)
def test_what_belongs_to_something_else_is_refused(saved: Path, identity: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(saved, CPU, {**IDENTITY, **identity})
    assert_one_line(caught, saved)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"format": 99, "identity": IDENTITY}, {"format": 1}])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of recbole_ra") as caught:
        load_checkpoint(tmp_path / "other.pt", CPU, IDENTITY)
    assert_one_line(caught, tmp_path / "other.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt", CPU, IDENTITY)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path, CPU, IDENTITY)


class Evil:
    """What a pickle may ask for: a call when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    torch.save({"format": 1, "identity": IDENTITY, "x": Evil(tmp_path / "mark")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt", CPU, IDENTITY)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("layer", [torch.nn.Linear(2, 4), torch.nn.Bilinear(2, 2, 3), torch.nn.ReLU()])
def test_weights_that_do_not_fit_are_refused(saved: Path, layer: torch.nn.Module) -> None:
    with pytest.raises(CheckpointError, match="the weights do not fit the model's settings") as caught:
        load_weights(layer, load_checkpoint(saved, CPU, IDENTITY)["state_dict"], saved)
    assert_one_line(caught, saved)


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RecboleRaError, match="no space left on the disk"):
        save_checkpoint(saved, {"identity": IDENTITY})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["best.pt"]
