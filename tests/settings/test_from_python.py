"""Settings of a Python program, and the variables of its environment that they leave alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_ra.settings.config import RaConfig


def test_numbers_of_numpy_and_paths_are_values(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    config = tiny_config(
        learning_rate=np.float64(0.002), epochs=np.int64(3), topk=(np.int64(10),), output_dir=tmp_path
    )
    assert repr(config["learning_rate"]) == "0.002"
    assert repr(config["epochs"]) == "3"
    assert repr(config["topk"]) == "[10]"
    assert config.run.output_dir == str(tmp_path)


def test_one_file_of_settings_may_be_given_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 3\n")
    for given in (file, str(file)):
        assert RaConfig("SASRec", "ml-100k", given)["epochs"] == 3


@pytest.mark.parametrize("visible", [None, "", "3", "MIG-1a/2"])
def test_the_gpus_of_a_job_stay_its_own(
    visible: str | None, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "CUDA_VISIBLE_DEVICES"
    monkeypatch.setenv(name, visible or "")  # so that it is put back
    if visible is None:
        monkeypatch.delenv(name)
    tiny_config(use_gpu=False)
    assert os.environ.get(name) == visible
    config = tiny_config(use_gpu=True)
    assert os.environ[name] == config["gpu_id"] == ("0" if visible is None else visible)
    assert tiny_config(use_gpu=True, gpu_id="1")["gpu_id"] == os.environ[name] == "1"
