"""What a hostile case is, and what has to be true after each of them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hostile.nursery import Ended, Nursery

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
ROWS = [
    f"u{user}\ti{(user * user + step * (1 + user % 3)) % 20}\t{step}"
    for user in range(30)
    for step in range(6)
]
GOOD = "\n".join([HEADER, *ROWS]) + "\n"

QUICK = (
    "--dataset=shop --epochs=2 --hidden_size=16 --inner_size=16 --n_layers=1 --use_gpu=false "
    "--train_batch_size=128 --learning_rate=0.01"
)
RAFT = "--raft_epochs=2 --n_neighbors=3 --index_type=Flat --raft_batch_size=64"
DR4SR = (
    "--teacher_epochs=2 --regenerator_epochs=2 --regenerator_width=16 --regenerator_inner=16 --n_latents=2 "
    "--decode_length=6"
)
PLAIN = f"--model=SASRec {QUICK}"
AUGMENTED = f"--model=RaSASRec {QUICK} {RAFT}"
EVERYTHING = f"{AUGMENTED} --regenerate=dr4sr {DR4SR}"
REGENERATE = f"regenerate {QUICK} {DR4SR} --out=made"

UNFINISHED = re.compile(r"^\..*\.(tmp|old)$|\.part$")
MADE = ("saved", "runs")
"""Folders that a run writes into."""


def nothing(folder: Path) -> None:
    """Leave the surroundings as they are."""


class Case(NamedTuple):
    """One row of a table.

    Attributes
    ----------
    kind, name : str
    words : str
        Of the command, as a shell would split them.
    line : str
        Regular expression: of the one line of the message, or of what is printed where the code is 0.
    code : int
    make : callable
        Sets the surroundings up in the working directory, which holds ``dataset/shop``.
    late : bool
        Whether the mistake is noticed while stages are made: those are kept, to be resumed.
    """

    kind: str
    name: str
    words: str
    line: str
    code: int = 2
    make: Callable[[Path], Any] = nothing
    late: bool = False

    def __str__(self) -> str:
        return self.name


class Arena:
    """A folder with a small data set, to run cases in."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        write(folder / "dataset" / "shop" / "shop.inter", GOOD)

    def run(self, words: str | list[str], **surroundings: Any) -> Ended:
        """Run one command."""
        split = shlex.split(words) if isinstance(words, str) else words
        return self.nursery.run(split, self.folder, **surroundings)

    def files(self) -> dict[str, str]:
        """Digest of every file by its name; what is no file, by what it is."""
        return snapshot(self.folder)

    def check(self, case: Case) -> Ended:
        """Run a case, and see that everything is as its row says and as it has to be after every case."""
        case.make(self.folder)
        before = self.files()
        ended = self.run(case.words)
        judge(ended, case.code, case.line)
        self.judge_files(before, new=case.code == 0 or case.late, unfinished=case.late)
        return ended

    def judge_files(self, before: dict[str, str], *, new: bool, unfinished: bool = False) -> None:
        """See that given files are as they were, that nothing half-written is left, and nothing new made."""
        after = self.files()
        assert {name: after.get(name) for name in before} == before
        left = [name for name in after if any(map(UNFINISHED.search, name.split("/")))]
        assert unfinished or not left, left
        made = [name for name in after.keys() - before.keys() if not name.endswith(".lock")]
        assert new or not [name for name in made if after[name] != "folder" or name not in MADE], made


def judge(ended: Ended, code: int, line: str) -> None:
    """See that a command ended with a code and with one line that says why."""
    said = ended.err.strip().splitlines()
    assert "Traceback" not in ended.err, ended.err
    assert ended.code == code, (ended.code, ended.err[-1500:])
    complaints = [text for text in said if text.startswith("recbole-ra: ")]
    if code:
        assert complaints == said[-1:], said
        assert re.search(line, complaints[0]), complaints[0]
        assert len(complaints[0]) < 1200, complaints[0]
    else:
        assert not complaints, complaints
        assert re.search(line, ended.out + ended.err), ended.out + ended.err


def result_of(folder: Path) -> dict[str, Any]:
    """Everything that the last run measured or made, without times and places."""
    (*_, last) = sorted(folder.glob("runs/*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    whole = json.loads(last.read_text())
    return untimed(
        {name: whole[name] for name in whole.keys() - {"settings", "versions", "reused", "folder"}}
    )


def untimed(content: Any) -> Any:
    """Leave out how long things took."""
    if isinstance(content, dict):
        return {name: untimed(value) for name, value in content.items() if name != "seconds"}
    return [untimed(value) for value in content] if isinstance(content, list) else content


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file by its name; of a link where it leads, of a folder that it is one."""

    def told(path: Path) -> str:
        if path.is_symlink():
            return f"link to {path.readlink()}"
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
        return "folder"

    return {path.relative_to(folder).as_posix(): told(path) for path in sorted(folder.rglob("*"))}


def stored(folder: Path) -> set[str]:
    """Names of everything in the store, without TensorBoard's: every run writes its own."""
    names = {path.relative_to(folder).as_posix() for path in (folder / "saved").rglob("*")}
    return {name for name in names if "/tensorboard" not in name}


def write(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def shop(content: str | bytes) -> Callable[[Path], Path]:
    """Have the data set hold something else."""
    return lambda folder: write(folder / "dataset" / "shop" / "shop.inter", content)


def file(name: str, content: str | bytes) -> Callable[[Path], Path]:
    """Put a file into the working directory."""
    return lambda folder: write(folder / name, content)


def rows(kind: str, base: str, table: Iterable[tuple[Any, ...]], **about: Any) -> list[Case]:
    """Cases of one kind, from (name, words after those of the base, line, …)."""
    return [Case(kind, name, f"{base} {words}", *rest)._replace(**about) for name, words, *rest in table]
