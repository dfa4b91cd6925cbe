from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from recbole_ra.core.compat import ALIASES, restore_numpy_aliases


def test_the_aliases_that_recbole_reads_are_there() -> None:
    restore_numpy_aliases()
    for name, kind in ALIASES.items():
        assert np.dtype(getattr(np, name)) == np.dtype(kind)


def test_what_exists_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float", "somebody's own")
    restore_numpy_aliases()
    assert np.float == "somebody's own"


def test_nothing_but_the_aliases_is_patched() -> None:
    """In a fresh process: NumPy gains the aliases, nothing else changes, torch is not even imported."""
    script = """
import sys, numpy, pandas, yaml
modules = {"numpy": numpy, "pandas": pandas, "yaml": yaml}
before = {name: dict(vars(module)) for name, module in modules.items()}
import recbole_ra.core.compat as compat
assert not {"recbole", "torch"} & set(sys.modules)
for name, module in modules.items():
    changed = {key for key, value in vars(module).items() if before[name].get(key, vars) is not value}
    expected = set(compat.ALIASES) - set(before[name]) if name == "numpy" else set()
    assert changed == expected, (name, changed)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_trainer_patches_nothing_either() -> None:
    import torch

    import recbole_ra.training.trainer  # noqa: F401

    assert torch.load is torch.serialization.load
    assert torch.save is torch.serialization.save
