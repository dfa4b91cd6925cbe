from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_ra.core import machine
from recbole_ra.core.machine import available_memory


def test_the_memory_of_this_machine_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert 1e7 < available_memory(cpu) < 1e14
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   12 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    assert available_memory(cpu) == 12 * 1024
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "none")
    assert available_memory(cpu) > 1e7
