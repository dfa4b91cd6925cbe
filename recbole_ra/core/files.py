"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from recbole_ra.core.errors import RecboleRaError


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" and "permission denied" into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecboleRaError(f"{path}: no space left on the disk; free some and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RecboleRaError(f"{path}: no permission to write there; choose another folder") from error
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are missing.

    Raises
    ------
    RecboleRaError
        If there can be none.
    """
    with explain_disk_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise RecboleRaError(f"{path}: no folder can be made there; name another") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same directory that becomes ``path`` only if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explain_disk_errors(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def held(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file; the operating system gives it back when a process dies, however it dies.

    Parameters
    ----------
    path : Path
        Made if it is missing, and left behind.
    busy : callable
        Called once if another process holds the lock; then this waits for it, unless the call raises.
    """
    make_folder(path.parent)
    with explain_disk_errors(path):
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            busy()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary sibling, so that no half-written file is ever seen."""
    make_folder(path.parent)
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write JSON, sorted and indented, atomically."""
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays by name as ``.npz``, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes them for allow_pickle


def read_arrays(path: Path, names: Sequence[str]) -> list[NDArray[Any]] | None:
    """Read arrays by name, or None if the file is missing, damaged or lacks one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON form of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_bytes(*parts: bytes) -> str:
    """SHA-256 of byte strings, each with its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


class ArtifactStore:
    """Results of stages, addressed by what they were made from.

    A finished artifact is a folder with a ``manifest.json``; one in progress has the suffix
    ``.part``. Nothing is reused because a file exists: the manifest must name the same key.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Where a finished artifact lies."""
        return self.root / f"{stage}-{key[:16]}"

    def part(self, stage: str, key: str) -> Path:
        """Where an artifact in progress lies."""
        return self.root / f"{stage}-{key[:16]}.part"

    def find(self, stage: str, key: str) -> Path | None:
        """The finished artifact of that key, or None."""
        manifest = self.folder(stage, key) / "manifest.json"
        try:
            content = json.loads(manifest.read_text())
        except (FileNotFoundError, ValueError):  # ValueError: damaged, no JSON or no text at all
            return None
        return manifest.parent if isinstance(content, dict) and content.get("key") == key else None

    @contextlib.contextmanager
    def held(self, stage: str, key: str, waits: Callable[[], None]) -> Iterator[None]:
        """Keep other processes from making the same artifact meanwhile; ``waits`` as in :func:`held`."""
        with held(self.root / f".{stage}-{key[:16]}.lock", waits):
            yield

    def start(self, stage: str, key: str, *, resume: bool) -> Path:
        """The folder to work in, emptied unless the work is resumed."""
        part = self.part(stage, key)
        with explain_disk_errors(part):
            if not resume and part.exists():
                shutil.rmtree(part)
        make_folder(part)
        return part

    def finish(self, stage: str, key: str, inputs: Any) -> Path:
        """Write the manifest and give the folder its final name."""
        part, folder = self.part(stage, key), self.folder(stage, key)
        write_json(part / "manifest.json", {"stage": stage, "key": key, "inputs": inputs})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
        return folder
