"""Runs on the walks, each below a folder of its own or sharing artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from walks import REGENERATION, settings_below, write_walks


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
