"""Write files and folders so that they are whole or absent; lock, read and digest them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from recbole_ra.core.errors import CheckpointError, RecboleRaError


@contextlib.contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left", "permission denied" and "name too long" into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecboleRaError(f"{path}: no space left on the disk; free some and run again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise RecboleRaError(f"{path}: no permission to write there; choose another folder") from error
        if error.errno == errno.ENAMETOOLONG:
            raise RecboleRaError(f"{path}: the name is too long for the file system; shorten it") from error
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are missing; raises RecboleRaError if there can be none."""
    with explain_disk_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError, ValueError) as error:
            raise RecboleRaError(f"{path}: no folder can be made there; name another") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name in the same directory that becomes ``path`` only if the block succeeds."""
    temporary = _sibling(path, "tmp")
    with explain_disk_errors(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` that takes its place only if the block succeeds.

    An earlier folder of that name is replaced, whatever it holds; the caller checks that it may be.
    """
    make_folder(path.parent)
    temporary = _sibling(path, "tmp")
    with explain_disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process of the same id
        try:
            temporary.mkdir()
            yield temporary
            replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def copy_folder(source: Path, path: Path) -> None:
    """Copy a folder to where nothing is yet; an incomplete copy is removed."""
    with whole_folder(path) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)


def replace_folder(source: Path, path: Path) -> None:
    """Rename a finished folder; one that has the name is put back on failure and else deleted."""
    old = _sibling(path, "old")
    with explain_disk_errors(path):
        try:
            if path.is_dir():
                remove(old)
                path.replace(old)
            source.replace(path)
        finally:  # an interrupt, too, leaves the old folder
            if old.exists() and not path.exists():
                old.replace(path)
            remove(old)


def remove(path: Path) -> None:
    """Delete a folder with all that it holds, a file or a link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sibling(path: Path, suffix: str) -> Path:
    """Return a hidden name in the same directory that no other process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{suffix}")


@contextlib.contextmanager
def held(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a file; the operating system gives it back when a process dies, however it dies.

    The file is made if it is missing, and left behind. If another process holds the lock, ``busy`` is
    called once; then this waits, unless the call raises.
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


def orphans(path: Path) -> list[Path]:
    """Return folders that a kill left when it cut a replacement of ``path`` short: the earlier ones."""
    return _remnants(path, "old")


def _remnants(path: Path, suffix: str) -> list[Path]:
    """Return what :func:`_sibling` named for this path, whatever the process; not for ``path.more``."""
    name = re.compile(rf"\.{re.escape(path.name)}\.\d+\.{suffix}")
    return sorted(entry for entry in path.parent.glob(f".*.{suffix}") if name.fullmatch(entry.name))


def put_back(path: Path) -> None:
    """Mend a replacement that a kill cut short; to be called by who alone may replace the folder."""
    left = orphans(path)
    with explain_disk_errors(path):
        if left and not path.exists():
            left.pop().replace(path)
        for remnant in (*left, *_remnants(path, "tmp")):
            remove(remnant)


def flush_folder(path: Path) -> None:
    """Wait until the names in a folder, and the files below it, are on the disk."""
    for name in (*path.rglob("*"), path):
        _flush(name)


def flush_names(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can be asked for that."""
    with contextlib.suppress(OSError):
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array as ``.npy``, atomically."""
    # Opened for reading, too: what is open for writing alone NumPy fills past Python, and then does not say
    # that it was the disk that had no room.
    with replacing(path) as temporary, open(temporary, "w+b") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays by name as ``.npz``, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # mypy takes them for allow_pickle


def read_arrays(path: Path, names: Sequence[str]) -> list[NDArray[Any]] | None:
    """Read arrays by name, or None if the file is missing, damaged or lacks one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None


def read_made(path: Path) -> Any:
    """Read a JSON file or one array (``.npy``) of an artifact, whose digest was right.

    Raises
    ------
    CheckpointError
        If it is damaged all the same: somebody changed the manifest, too.
    """
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else json.loads(path.read_text())
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise CheckpointError(f"{path}: missing or damaged; delete its folder and run again") from error


def digest(content: Any) -> str:
    """Return the SHA-256 of plain data in canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_bytes(*parts: bytes) -> str:
    """Return the SHA-256 of byte strings, each with its length."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()
