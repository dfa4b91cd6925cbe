"""The artifact store: results of stages, addressed by what they were made from, checked before reuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from recbole_ra.core.files import explain_disk_errors, held, make_folder, remove, replace_folder, write_json

MANIFEST = "manifest.json"


class ArtifactStore:
    """Results of stages, one folder each.

    A finished artifact has a manifest with its key and with size and SHA-256 of every file; one in progress
    has the suffix ``.part``. An artifact is reused only if the manifest names the key and every file is as it
    was written. An artifact that somebody changes together with its manifest is not noticed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sound: set[Path] = set()
        self._damaged: set[Path] = set()

    def _path(self, stage: str, key: str, suffix: str = "") -> Path:
        return self.root / f"{stage}-{key[:16]}{suffix}"

    def find(self, stage: str, key: str, damaged: Callable[[str], None] | None = None) -> Path | None:
        """Return the folder of the finished artifact of that key, or None if there is none or it is damaged.

        Files are read once in the life of the store. ``damaged`` is called once with what is wrong.
        """
        folder = self._path(stage, key)
        if folder in self._sound or not (folder.exists() or folder.is_symlink()):
            return folder if folder in self._sound else None
        damage = damage_of(folder, key)
        if damage is None:
            self._sound.add(folder)
            return folder
        if damaged is not None and folder not in self._damaged:
            damaged(damage)
        self._damaged.add(folder)
        return None

    def held(self, stage: str, key: str, busy: Callable[[], None]) -> AbstractContextManager[None]:
        """Keep other processes from making the same artifact meanwhile; ``busy`` as in ``files.held``."""
        return held(self.root / f".{stage}-{key[:16]}.lock", busy)

    def start(self, stage: str, key: str, *, resume: bool) -> Path:
        """Return the folder to work in, emptied unless the work is resumed."""
        part = self._path(stage, key, ".part")
        with explain_disk_errors(part):
            if not resume or not part.is_dir():
                remove(part)
        make_folder(part)
        for left in list(part.rglob(".*.tmp")):  # of a process that was killed while it wrote
            remove(left)
        return part

    def finish(self, stage: str, key: str, inputs: Any) -> Path:
        """Write the manifest and give the folder its final name."""
        part, folder = self._path(stage, key, ".part"), self._path(stage, key)
        (part / MANIFEST).unlink(missing_ok=True)
        files = fingerprints(part)
        write_json(part / MANIFEST, {"stage": stage, "key": key, "inputs": inputs, "files": files})
        if not folder.is_dir():
            remove(folder)
        replace_folder(part, folder)
        self._sound.add(folder)
        return folder


def damage_of(folder: Path, key: str) -> str | None:
    """Return what is wrong with a finished artifact, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        found, files = manifest["key"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{folder / MANIFEST} is missing or damaged"
    if found != key:
        return f"{folder / MANIFEST} names another key"
    try:
        paths = [folder / name for name in files]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            return f"{missing[0]} is missing"
        now = fingerprints(folder, paths)
    except (OSError, ValueError, TypeError):  # names that no file of the folder has
        return f"{folder / MANIFEST} is damaged"
    changed = [folder / name for name, told in files.items() if told != now[name]]
    return f"{changed[0]} was changed" if changed else None


def fingerprints(folder: Path, paths: list[Path] | None = None) -> dict[str, list[Any]]:
    """Size and SHA-256 of files, by default of all in the folder, by name in it; read in parallel."""
    if paths is None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())

    def of(path: Path) -> list[Any]:
        with path.open("rb") as file:
            return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]

    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(of, paths), strict=True))
