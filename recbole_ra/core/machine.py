"""How much memory the machine has left, asked before something large is made."""

from __future__ import annotations

import os
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")


def available_memory(device: torch.device | None = None) -> int:
    """Return the bytes that are available: of a GPU, or of this machine."""
    if device is not None and device.type != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    if MEMINFO.is_file():  # Linux: what caches would give back counts as well
        found = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        if "MemAvailable" in found:
            return int(found["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
