"""Fixtures and settings that all tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def shared_dataset() -> Path:
    """Directory that holds the real data sets, one folder each."""
    return Path(__file__).resolve().parents[2] / "shared" / "dataset"
