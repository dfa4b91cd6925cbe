"""Changes since a recommender was saved, in its folder: written ahead, and applied when it is loaded."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from recbole_ra.core.errors import CheckpointError, RecboleRaError
from recbole_ra.core.files import explain_disk_errors, flush_folder
from recbole_ra.inference.files import delete_earlier, save_recommender, state_of

if TYPE_CHECKING:
    from recbole_ra.inference.recommender import Recommender

JOURNAL = "journal.jsonl"

Event = tuple[str, str, float]
"""User, item, time."""


@dataclass(frozen=True)
class Change:
    """One acknowledged request: events that were added, or a user that was forgotten."""

    events: tuple[Event, ...] = ()
    forgotten: str | None = None

    def line(self) -> bytes:
        """Return it as a line that starts with a checksum."""
        content = {"forget": self.forgotten} if self.forgotten is not None else {"add": self.events}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        return b"%08x %s\n" % (zlib.crc32(text), text)

    @classmethod
    def of(cls, line: bytes) -> Change | None:
        """Read a line; None if it is not as it was written."""
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            return None
        content = json.loads(text)
        if "forget" in content:
            return cls(forgotten=content["forget"])
        return cls(events=tuple((user, item, float(time)) for user, item, time in content["add"]))


@dataclass(frozen=True)
class Written:
    """The changes that a journal holds.

    Attributes
    ----------
    changes : list of Change
    size : int
        Bytes of these.
    torn : int
        Bytes after them: of a change that was being written, and not acknowledged.
    """

    changes: list[Change]
    size: int = 0
    torn: int = 0


def read_journal(folder: Path) -> Written:
    """Read the journal of a recommender's folder; there may be none.

    Raises
    ------
    CheckpointError
        If it is damaged before its end.
    """
    path = folder / JOURNAL
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return Written([])
    changes = [Change.of(line) for line in lines]
    sound = next((place for place, change in enumerate(changes) if change is None), len(lines))
    if any(change is not None for change in changes[sound:]):
        raise CheckpointError(
            f"{path}: line {sound + 1} is damaged; copy the folder again, or delete it to go on without"
        )
    size = sum(map(len, lines[:sound]))
    torn = sum(map(len, lines[sound:]))
    return Written([change for change in changes if change is not None], size, torn)


def on_disk(folder: Path) -> tuple[str, int]:
    """Return what tells whether a recommender's folder has changed: its save, and the size of its journal."""
    return state_of(folder), read_journal(folder).size


class Journal:
    """Appends changes to the journal of a folder that no other process changes.

    What was torn at its end by a kill is cut off.

    Attributes
    ----------
    torn : int
        Bytes that were.
    changes : int
        In the file; 0 says that the folder alone is all.
    forgets : bool
        Whether one of them forgets a user, whom the folder may hold still.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.torn = 0
        self._open()

    def _open(self) -> None:
        written = read_journal(self.folder)
        path = self.folder / JOURNAL
        with explain_disk_errors(path):
            file = open(path, "ab", buffering=0)  # noqa: SIM115  # until close
            try:
                file.truncate(written.size)
                flush_folder(self.folder)
            except BaseException:
                file.close()
                raise
        self._file: BinaryIO = file
        self.changes, self._size, self.torn = len(written.changes), written.size, written.torn
        self.forgets = any(change.forgotten is not None for change in written.changes)

    def append(self, changes: Iterable[Change]) -> None:
        """Write changes; when this returns they are on the disk, and if it raises none is there."""
        if not self._is_there():
            self._reopen()
        changes = list(changes)
        content = b"".join(change.line() for change in changes)
        try:
            with explain_disk_errors(self.folder / JOURNAL):
                self._file.truncate(self._size)  # what a failed append could not take back
                rest = memoryview(content)
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(self._size)
            raise
        self._size += len(content)
        self.changes += len(changes)
        self.forgets |= any(change.forgotten is not None for change in changes)

    def compact(self, recommender: Recommender) -> None:
        """Save the recommender, to which every change was applied; the journal starts from nothing.

        If it cannot be opened again, the next change tries, and says why it cannot be kept.
        """
        if not self.changes:
            delete_earlier(self.folder)
            return
        self._file.close()  # some network file systems delete no folder of an open file
        try:
            save_recommender(recommender, self.folder)
        finally:  # a save may fail after it took the folder's place, and with it the journal's
            if not self._is_there():
                with contextlib.suppress(OSError, RecboleRaError):
                    self._reopen()

    def _is_there(self) -> bool:
        """Tell whether the open file is that of the folder, not of one that was replaced."""
        if self._file.closed:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.folder / JOURNAL))
        except FileNotFoundError:
            return False

    def _reopen(self) -> None:
        self._file.close()
        self._open()

    def close(self) -> None:
        """Close the file; an empty one is removed."""
        self._file.close()
        if not self.changes:
            (self.folder / JOURNAL).unlink(missing_ok=True)


def apply_changes(recommender: Recommender, changes: Iterable[Change]) -> None:
    """Apply changes in their order, as often as one likes: what is known already changes nothing."""
    for change in _merged(changes):
        if change.forgotten is None:
            recommender.add(change.events)
        elif change.forgotten in recommender.users:
            recommender.forget(change.forgotten)


def _merged(changes: Iterable[Change]) -> Iterator[Change]:
    """Join consecutive additions where that makes the same histories.

    Of one addition a user's events are taken in the order of their times, so an event that is older than
    one before it starts another.
    """
    events: list[Event] = []
    latest: dict[str, float] = {}
    for change in changes:
        late = any(time < latest.get(user, time) for user, _, time in change.events)
        if events and (late or change.forgotten is not None):
            yield Change(tuple(events))
            events, latest = [], {}
        if change.forgotten is not None:
            yield change
        for user, item, time in change.events:
            events.append((user, item, time))
            latest[user] = max(time, latest.get(user, time))
    if events:
        yield Change(tuple(events))
