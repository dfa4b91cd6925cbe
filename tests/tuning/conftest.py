"""Sweeps on the walks, in one Ray that all of them share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from walks import settings_below, write_walks


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def machine() -> Iterator[Any]:
    pytest.importorskip("ray", reason="make setup-tune installs it")
    from recbole_ra.tuning.cluster import connected

    with connected(None) as machine:
        yield machine


@pytest.fixture(scope="session")
def words_below(walks: Path) -> Callable[..., list[str]]:
    """Words of a sweep over a space that is written into a folder."""

    def make(folder: Path, text: str, **options: Any) -> list[str]:
        file = folder / "space.yaml"
        file.write_text(text)
        small = settings_below(folder, walks)
        settings = {
            **{key: value for key, value in small.items() if key not in yaml.safe_load(text)},
            "model": "RaSASRec",
            "space": str(file),
            "sweep_dir": str(folder / "sweep"),
            "scheduler": "none",
            **options,
        }
        return [f"--{key}={value}" for key, value in settings.items()]

    return make


@pytest.fixture
def words(words_below: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """Words of a sweep over a space that is written here: ``words("alpha: …", trials=4)``."""
    return functools.partial(words_below, tmp_path)
