"""A run in a Python program: what it leaves alone, and the result that it returns."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra import Result, run
from recbole_ra.core.errors import CheckpointError
from walks import silent


def test_a_run_leaves_random_states_and_logging_as_they_were(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    drawn = []
    for _ in range(2):
        run("SASRec", **{**settings, "epochs": 1}, say=silent)
        drawn.append((np.random.rand(), random.random(), torch.rand(1).item()))
    assert all(first != second for first, second in zip(*drawn, strict=True))
    assert logging.getLogger().level == logging.ERROR


def test_a_result_is_read_wherever_its_folder_is(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run("SASRec", **{**settings, "epochs": 1}, say=silent)
    assert repr(made).startswith("<Result SASRec on walks: test ndcg@10 unmasked 0.")
    assert "\n" not in repr(made)
    shutil.move(made.folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    found = Result.load("moved")
    assert (found.test, found.folder) == (made.test, "moved")
    with pytest.raises(
        CheckpointError, match=r"nowhere/result\.json: is missing or damaged; name the folder"
    ):
        Result.load("nowhere")
