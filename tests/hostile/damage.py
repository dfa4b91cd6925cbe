"""What is done to a file of an artifact or checkpoint."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def be_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def be_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def be_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Runs("touch pwned")))


class Runs:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def artifact(folder: Path, stage: str) -> Path:
    (found,) = (path for path in folder.glob(f"saved/{stage}-*") if path.suffix != ".part")
    return found
