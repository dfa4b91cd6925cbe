"""Two workers do what one does."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra import run
from recbole_ra.core.errors import SettingsError
from recbole_ra.regeneration.decoding import Decoded
from walks import REGENERATION, settings_below, silent

STEADY = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "ema_decay": 0.5}


@pytest.fixture
def alone(walks: Path, tmp_path: Path) -> dict[str, Any]:
    return settings_below(tmp_path / "one", walks)


@pytest.fixture
def together(walks: Path, tmp_path: Path) -> dict[str, Any]:
    return {**settings_below(tmp_path / "two", walks), "workers": 2}


def artifact(settings: dict[str, Any], stage: str) -> Path:
    (folder,) = Path(settings["checkpoint_dir"]).glob(f"{stage}-*")
    return folder


def test_training_gives_the_same_curve_at_the_same_batch(
    alone: dict[str, Any], together: dict[str, Any], machine: Any
) -> None:
    feed = {**STEADY, "epochs": 2}
    one = run("SASRec", **{**alone, **feed}, say=silent)
    reported: list[dict[str, Any]] = []
    options = {**together, **feed}
    two = run("SASRec", **options, say=silent, on_epoch=lambda entry: reported.append(dict(entry)))
    for name in ("loss", "ndcg@10"):
        expected = [entry[name] for entry in one.history]
        assert [entry[name] for entry in two.history] == pytest.approx(expected, abs=1e-4)
        assert [entry[name] for entry in reported[: len(expected)]] == pytest.approx(expected, abs=1e-4)
    assert two.test["unmasked"] == pytest.approx(one.test["unmasked"], abs=0.02)


def test_a_model_of_recbole_trains_on_two_workers(
    alone: dict[str, Any], together: dict[str, Any], machine: Any
) -> None:
    architecture = ("hidden_size", "inner_size", "n_layers")
    options = {"dropout_probs": [0.0, 0.0], "epochs": 2}
    pair = []
    for settings in (alone, together):
        kept = {key: value for key, value in settings.items() if key not in architecture}
        pair.append(run("NARM", **{**kept, **options}, say=silent))
    losses = [[entry["loss"] for entry in result.history] for result in pair]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_regeneration_and_bank_are_the_same_bit_for_bit(
    alone: dict[str, Any], together: dict[str, Any], machine: Any
) -> None:
    """Backbone, teacher and regenerator are those of one, so that both decode and encode with them."""
    run("SASRec", **alone, say=silent)
    trained = {"backbone_checkpoint": str(artifact(alone, "backbone") / "best.pt"), "eval_batch_size": 64}
    regenerated = {**REGENERATION, "memory_data": "regenerated"}
    one = run("RaSASRec", **alone, **trained, **regenerated, say=silent)
    for stage in ("teacher", "regenerator"):
        made = artifact(alone, stage)
        shutil.copytree(made, Path(together["checkpoint_dir"]) / made.name)
    two = run("RaSASRec", **together, **trained, **regenerated, say=silent)
    assert "regenerator" in two.reused
    assert not {"decoded", "bank"} & set(two.reused)
    decoded = [Decoded.load(artifact(settings, "decoded")) for settings in (alone, together)]
    for name in ("items", "offsets", "source", "latent"):
        np.testing.assert_array_equal(getattr(decoded[0], name), getattr(decoded[1], name))
    states = [np.load(artifact(settings, "bank") / "train_states.npy") for settings in (alone, together)]
    np.testing.assert_array_equal(states[0], states[1])
    assert one.test == two.test


def test_more_workers_than_cpus_are_refused(together: dict[str, Any], machine: Any) -> None:
    with pytest.raises(SettingsError, match=r"workers=500 but there are \d+ CPUs; lower it"):
        run("SASRec", **{**together, "workers": 500}, say=silent)


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(
    alone: dict[str, Any], together: dict[str, Any], machine: Any
) -> None:
    killed: list[int] = []

    def kill_a_worker() -> None:
        """Once training is under way, kill one of its processes."""
        while not list(Path(together["checkpoint_dir"]).glob("backbone-*.part/last.pt")):
            time.sleep(0.05)
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            if b"RayTrainWorker" in entry.read_bytes():
                killed.append(int(entry.parent.name))
                os.kill(killed[0], signal.SIGKILL)
                return

    many = {**STEADY, "epochs": 40, "stopping_step": 40}
    one = run("SASRec", **{**alone, **many}, say=silent)
    Thread(target=kill_a_worker, daemon=True).start()
    two = run("SASRec", **{**together, **many}, say=silent)
    assert killed
    assert len(two.history) == len(one.history)
    losses = [[entry["loss"] for entry in result.history] for result in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
    assert torch.load(artifact(together, "backbone") / "best.pt", weights_only=True)["identity"]
