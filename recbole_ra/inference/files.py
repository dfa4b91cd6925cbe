"""The folder of a recommender: written whole, and checked before anything of it is used."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from recbole_ra.core.errors import CheckpointError, RecboleRaError
from recbole_ra.core.files import (
    digest,
    digest_bytes,
    flush_folder,
    flush_names,
    held,
    orphans,
    put_back,
    read_arrays,
    replacing,
    whole_folder,
    write_arrays,
    write_bytes,
    write_json,
)
from recbole_ra.core.store import MANIFEST, damage_of, fingerprints
from recbole_ra.data.table import SequenceTable
from recbole_ra.inference.about import About
from recbole_ra.inference.tokens import Items, Tokens

if TYPE_CHECKING:
    from recbole_ra.inference.recommender import Recommender

MODEL = "model"
"""Name of the folder in a run's folder."""

LATEST = "latest"
"""Link beside the runs' folders to the last one that left a recommender."""

LATEST_RUN = f"runs/{LATEST}"

FORMAT = 2
WEIGHTS = "weights.pt"
BANK = "bank"
_ITEMS, _USERS, _HISTORIES = "items.parquet", "users.parquet", "histories.npz"
_ARRAYS = ("items", "offsets", "times")


def save_recommender(recommender: Recommender, folder: Path) -> None:
    """Write a recommender; one that lies there is replaced, and stays if this fails.

    To be called by who alone may change the folder, see :func:`editing`.

    Raises
    ------
    CheckpointError
        If something else lies there.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: exists and holds no recommender; name another folder")
    items, table = recommender.items, recommender.histories
    with whole_folder(folder) as part:
        weights = io.BytesIO()
        state = recommender.scorer.model.state_dict()
        torch.save({name: value.cpu() for name, value in state.items()}, weights)
        write_bytes(part / WEIGHTS, weights.getvalue())
        if recommender.memory is not None:
            recommender.memory.bank.save(part / BANK)
        columns = (
            {"item": items.names} if items.titles is None else {"item": items.names, "title": items.titles}
        )
        _write_table(part / _ITEMS, columns)
        _write_table(part / _USERS, {"user": recommender.users.names})
        write_arrays(part / _HISTORIES, **{name: np.asarray(getattr(table, name)) for name in _ARRAYS})
        about = {"format": FORMAT, **dataclasses.asdict(recommender.about)}
        files = fingerprints(part)
        write_json(part / MANIFEST, {"key": digest(about), "about": about, "files": files})
        flush_folder(part)  # it takes the place of a journal that was on the disk
    flush_names(folder.parent)
    delete_earlier(folder)


def delete_earlier(folder: Path) -> None:
    """Delete what a save left of the one before it, which may hold users who were forgotten.

    Raises
    ------
    RecboleRaError
        If that cannot be deleted.
    """
    put_back(folder)
    for remnant in orphans(folder):
        raise RecboleRaError(f"{remnant}: holds what was saved before, and cannot be deleted; delete it")


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    # As open files: Arrow takes no path that is not UTF-8.
    with replacing(path) as temporary, temporary.open("wb") as file:
        parquet.write_table(table, file)


def model_folder(path: Path) -> Path:
    """Return the folder of the recommender that a path names: itself, or the one of a run's folder.

    It is named without links: ``runs/latest`` may be another run's a moment later.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if (path / MANIFEST).is_file():
        return path.resolve()
    if (path / MODEL).is_dir():
        return (path / MODEL).resolve()
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no such run folder; train a model first, or name the folder that a run printed as "
            "its result"
        )
    if (path / LATEST).is_dir():
        raise CheckpointError(f"{path}: holds runs; name one of them, such as {path / LATEST}")
    raise CheckpointError(
        f"{path}: holds no recommender ({MODEL}/ is missing); trials of a sweep, runs that only regenerate "
        "and runs with save_model=false leave none"
    )


def state_of(folder: Path) -> str:
    """Return what tells one save of a recommender from another; empty while there is none."""
    try:
        return digest_bytes((folder / MANIFEST).read_bytes())
    except OSError:
        return ""


def read_about(folder: Path) -> About:
    """Check every file of a recommender against its manifest, and read what it says of itself.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged or of another format.
    """
    try:
        about = json.loads((folder / MANIFEST).read_text())["about"]
        found = about.pop("format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder / MANIFEST, "is missing or damaged") from error
    if found != FORMAT:
        raise CheckpointError(
            f"{folder}: is of format {found}, this version reads {FORMAT}; use the version of recbole_ra "
            "that wrote it, or train again"
        )
    damage = damage_of(folder, digest({"format": found, **about}))
    if damage is not None:
        raise CheckpointError(f"{damage}; copy the folder again, or train again")
    try:
        return About(**about)
    except TypeError as error:
        raise damaged(folder / MANIFEST, "lacks entries") from error


def read_weights(folder: Path, device: torch.device) -> dict[str, Any]:
    """Read the weights; nothing is executed."""
    try:
        state = torch.load(folder / WEIGHTS, map_location=device, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ValueError … on damage
        raise damaged(folder / WEIGHTS, "is not readable") from error
    if not isinstance(state, dict):
        raise damaged(folder / WEIGHTS, "holds no weights")
    return state


def read_data(folder: Path) -> tuple[Items, Tokens, SequenceTable]:
    """Read items, users and histories."""
    items = _read_table(folder / _ITEMS)
    names = items.get("item", [])
    titles = {
        name: title for name, title in zip(names, items.get("title", []), strict=False) if name and title
    }
    arrays = read_arrays(folder / _HISTORIES, _ARRAYS)
    if arrays is None:
        raise damaged(folder / _HISTORIES, "is missing or damaged")
    users = Tokens(_read_table(folder / _USERS).get("user", []))
    try:
        table = SequenceTable.from_arrays(arrays[0], arrays[1], len(names), times=arrays[2])
    except ValueError as error:
        raise damaged(folder / _HISTORIES, str(error)) from error
    if len(table) != len(users):
        raise damaged(folder / _HISTORIES, f"holds {len(table)} histories of {len(users)} users")
    return Items(names, titles), users, table


def _read_table(path: Path) -> dict[str, list[str | None]]:
    try:
        with path.open("rb") as file:
            return parquet.read_table(file).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, "is not readable") from error


def damaged(path: Path, what: str) -> CheckpointError:
    """Return the error for a file that is not as it was written."""
    return CheckpointError(f"{path}: {what}; copy the folder again, or train again")


@contextlib.contextmanager
def editing(path: Path, busy: Callable[[], None]) -> Iterator[Path]:
    """Keep others from changing a recommender, and give its folder; ``busy`` as in ``files.held``.

    A save that was cut short by a kill is mended first.
    """
    cut_short = [folder for folder in (path / MODEL, path) if not folder.exists() and orphans(folder)]
    folder = cut_short[0].resolve() if cut_short else model_folder(path)
    with held(folder.with_name(f".{folder.name}.lock"), busy):
        put_back(folder)
        yield folder
