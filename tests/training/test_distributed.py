"""Two processes of a torch process group train as one does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recbole_ra import run
from recbole_ra.training.backbone import train_part
from walks import settings_below

STEADY = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "ema_decay": 0.5, "epochs": 3}


def train_one_of_two(rank: int, settings: dict[str, Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    train_part(settings, Path(folder), None)
    dist.destroy_process_group()


@pytest.mark.parametrize("targets_per_pass", [1, 4])
def test_the_same_curve_at_the_same_batch(targets_per_pass: int, walks: Path, tmp_path: Path) -> None:
    settings = {**settings_below(tmp_path, walks), **STEADY, "targets_per_pass": targets_per_pass}
    one = run("SASRec", **settings, say=lambda line: None)
    folder = tmp_path / "together"
    folder.mkdir()
    path = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        mp.spawn(train_one_of_two, ({**settings, "model": "SASRec"}, str(folder)), nprocs=2)
    history = json.loads((folder / "history.json").read_text())
    assert len(list((folder / "tensorboard").glob("events*"))) == 1  # only the first process writes
    for name in ("loss", "ndcg@10"):
        expected = [entry[name] for entry in one.history]
        assert [entry[name] for entry in history] == pytest.approx(expected, abs=1e-4)
