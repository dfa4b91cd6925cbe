"""Fixtures and settings that all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from walks import REGENERATION, leave_undrawn, settings_below, write_walks

torch.set_num_threads(1)

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep together what belongs in one process: the tests of a file, and all that may start Ray."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "tests/tuning" if file.startswith("tests/tuning/") else file

    return Together(config, log)


@pytest.fixture(autouse=True)
def untraced() -> None:
    """Undo what importing a model of RecBole does: SINE, among them, has torch trace every operation."""
    torch.autograd.set_detect_anomaly(False)


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs build their figures but not draw them, unless the test is marked ``draws``."""
    if request.node.get_closest_marker("draws") is None:
        monkeypatch.setattr(Figure, "savefig", leave_undrawn)


@pytest.fixture(scope="session")
def shared_dataset() -> Path:
    """Directory that holds the real data sets, one folder each; beside the repository or inside it."""
    root = Path(__file__).resolve().parents[1]
    for folder in (root.parent / "shared" / "dataset", root / "dataset"):
        if (folder / "amazon-beauty").is_dir():
            return folder
    pytest.skip("needs the real data sets; dataset/README.md says where to get them")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of data sets that holds ``tiny``: 60 users, 40 items, lines in no order.

    Histories of 3 to 20 items, some with repetitions and equal timestamps.
    """
    rng = np.random.default_rng(7)
    lines = []
    for user in range(60):
        times = np.sort(rng.integers(0, 40, rng.integers(3, 21)))
        lines += [f"u{user}\ti{rng.integers(40)}\t{1000 + time}" for time in times]
    folder = tmp_path_factory.mktemp("data")
    (folder / "tiny").mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "tiny" / "tiny.inter").write_text("\n".join([header, *rng.permutation(lines)]) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Make a :class:`RaConfig` over ``tiny``: ``tiny_config("SASRec", n_layers=1)``."""
    from recbole_ra.models.registry import BACKBONES
    from recbole_ra.settings.config import RaConfig

    below = tmp_path_factory.mktemp("runs")
    small = {
        "data_path": str(tiny),
        "output_dir": str(below / "runs"),
        "checkpoint_dir": str(below / "saved"),
        "MAX_ITEM_LIST_LENGTH": 8,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }

    def make(model: str = "SASRec", **overrides: Any) -> RaConfig:
        narrow = {"hidden_size": 16} if model.removeprefix("Ra") in BACKBONES else {}
        return RaConfig(model, "tiny", (), {**small, **narrow, **overrides})

    return make


@pytest.fixture(scope="session")
def tiny_splits(tiny_config: Callable[..., Any]) -> Any:
    """``tiny`` in three splits, leave-one-out; read only."""
    from recbole_ra.data.dataset import Splits

    return Splits.load(tiny_config())


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("data"))


@pytest.fixture
def settings(walks: Path, tmp_path: Path) -> dict[str, Any]:
    return settings_below(tmp_path, walks)


@pytest.fixture(scope="module")
def shared_settings(walks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings whose artifacts are shared by the tests of a module."""
    return settings_below(tmp_path_factory.mktemp("shared"), walks)


@pytest.fixture
def regenerating(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run on regenerated data."""
    return {**settings, **REGENERATION}


@pytest.fixture(scope="module")
def shared_regenerating(shared_settings: dict[str, Any]) -> dict[str, Any]:
    """The same with artifacts that are shared by the tests of a module."""
    return {**shared_settings, **REGENERATION}
