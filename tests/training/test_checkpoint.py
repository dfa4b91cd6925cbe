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
    FORMAT,
    load_checkpoint,
    load_weights,
    random_state,
    save_checkpoint,
    set_random_state,
)

CPU = torch.device("cpu")
IDENTITY = {
    "model": "SASRec",
    "vocabulary": "abc",
    "n_items": 40,
    "training_part": "def",
    "settings": {"n_layers": 2},
}


def content(**changes: Any) -> dict[str, Any]:
    """What a checkpoint of one linear layer holds."""
    return {
        "identity": IDENTITY,
        "state_dict": torch.nn.Linear(2, 3).state_dict(),
        "history": [{"stage": "SASRec", "epoch": 0, "loss": 1.5}],
        "settings": {},
        "epoch": 4,
        **changes,
    }


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
    save_checkpoint(path, content())
    return path


def test_every_generator_continues_where_it_was(tmp_path: Path) -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    draws()
    known = content()
    save_checkpoint(tmp_path / "last.pt", {**known, "random": random_state()})
    expected = draws()
    assert draws() != expected
    set_random_state(load_checkpoint(tmp_path / "last.pt", IDENTITY)["random"])
    assert draws() == expected


def test_a_round_trip(saved: Path) -> None:
    found = load_checkpoint(saved, IDENTITY)
    assert found["epoch"] == 4
    assert found["identity"] == IDENTITY
    layer = torch.nn.Linear(2, 3)
    load_weights(layer, found["state_dict"], saved)
    assert torch.equal(layer.weight, found["state_dict"]["weight"])
    assert [path.name for path in saved.parent.iterdir()] == ["best.pt"]


def assert_one_line(caught: pytest.ExceptionInfo[CheckpointError], path: Path) -> None:
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, keep: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="not a readable checkpoint") as caught:
        load_checkpoint(saved, IDENTITY)
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
        load_checkpoint(saved, {**IDENTITY, **identity})
    assert_one_line(caught, saved)


@pytest.mark.parametrize("found", [[1, 2], {"a": 1}, {"format": 99, "identity": IDENTITY}, {"format": 1}])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, found: Any) -> None:
    torch.save(found, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of recbole_ra") as caught:
        load_checkpoint(tmp_path / "other.pt", IDENTITY)
    assert_one_line(caught, tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"identity": None}, "identity"),
        ({"identity": "SASRec"}, "identity"),
        ({"identity": {**IDENTITY, "settings": "n_layers"}}, "settings"),
        ({"identity": {"model": "SASRec"}}, "vocabulary"),
        ({"state_dict": "weights"}, "state_dict"),
        ({"history": "long"}, "history"),
        ({"history": [3]}, "stage"),
        ({"history": [{"stage": "SASRec", "epoch": "first", "loss": 1.0}]}, "epoch"),
        ({"settings": []}, "settings"),
    ],
)
def test_an_entry_of_another_type_is_named(change: dict[str, Any], entry: str, tmp_path: Path) -> None:
    path = tmp_path / "garbled.pt"
    save_checkpoint(path, content(**change))
    with pytest.raises(CheckpointError, match=f"its entry '{entry}' is missing or garbled") as caught:
        load_checkpoint(path, IDENTITY)
    assert_one_line(caught, path)


@pytest.mark.parametrize("weights", [{}, {"weight": "heavy", "bias": 3}, {"weight": torch.ones(1), 3: None}])
def test_weights_that_are_none_are_refused(weights: dict[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the weights do not fit the model's settings") as caught:
        load_weights(torch.nn.Linear(2, 3), weights, tmp_path / "x.pt")
    assert_one_line(caught, tmp_path / "x.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt", IDENTITY)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path, IDENTITY)


class Evil:
    """What a pickle may ask for: a call when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    torch.save({"format": FORMAT, "identity": IDENTITY, "x": Evil(tmp_path / "mark")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt", IDENTITY)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("layer", [torch.nn.Linear(2, 4), torch.nn.Bilinear(2, 2, 3), torch.nn.ReLU()])
def test_weights_that_do_not_fit_are_refused(saved: Path, layer: torch.nn.Module) -> None:
    with pytest.raises(CheckpointError, match="the weights do not fit the model's settings") as caught:
        load_weights(layer, load_checkpoint(saved, IDENTITY)["state_dict"], saved)
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


def test_a_checkpoint_is_read_to_the_cpu(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it was written: generators and counters of an optimiser stay there."""
    read, places = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *a, **k: places.append(k["map_location"]) or read(*a, **k))
    load_checkpoint(saved, IDENTITY)
    assert places == ["cpu"]


def test_a_flipped_bit_of_a_weight_is_damage(tmp_path: Path) -> None:
    """torch reads the numbers without comparing the checksums beside them."""
    weights = torch.linspace(0, 1, 4096)
    save_checkpoint(tmp_path / "x.pt", {**content(), "state_dict": {"weight": weights}})
    written = bytearray((tmp_path / "x.pt").read_bytes())
    place = bytes(written).index(weights[2000:2010].numpy().tobytes())
    written[place + 3] ^= 2
    (tmp_path / "x.pt").write_bytes(written)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "x.pt", IDENTITY)
