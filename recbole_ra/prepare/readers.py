"""Turn the files that people have into one RecBole atomic file of interactions."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyarrow import compute

from recbole_ra.core.errors import DataError, SettingsError, nearest
from recbole_ra.core.files import make_folder
from recbole_ra.data.atomic import check_readable
from recbole_ra.prepare import rawfiles, tabular
from recbole_ra.prepare.inter import complete_rows, write_inter

KINDS = {
    "amazon-csv": "ratings without a header: user,item,rating,timestamp",
    "amazon-reviews": "one JSON object a line",
    "sequences": "'user item item …' a line",
    "table": "CSV, TSV or Parquet with named columns",
}
"""What :func:`prepare` can read."""

_READERS = {
    "amazon-csv": tabular.read_amazon_csv,
    "amazon-reviews": rawfiles.read_reviews,
    "sequences": rawfiles.read_sequences,
}
_SNIFFED_LINES = 20


@dataclass(frozen=True)
class PreparedDataset:
    """What :func:`prepare` wrote: an atomic file of one of the :data:`KINDS`.

    Attributes
    ----------
    n_dropped : int
        Rows of the source left out because user, item or time is missing.
    notes : tuple of str
        What was decided and dropped, one sentence each.
    """

    path: Path
    kind: str
    n_users: int
    n_items: int
    n_interactions: int
    n_dropped: int
    notes: tuple[str, ...]


def prepare(
    source: Path,
    name: str,
    out: Path,
    *,
    kind: str = "auto",
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> PreparedDataset:
    """Write ``out/name/name.inter`` from a file of another format; rows keep their order.

    Parameters
    ----------
    source : Path
        The file; one whose name ends in ``.gz`` is decompressed while reading.
    name : str
        Name of the data set.
    out : Path
        Directory of the data sets, RecBole's ``data_path``.
    kind : str
        One of :data:`KINDS`, or ``auto``: decided by name and content. Of Amazon's ratings, user and
        item may also stand the other way round (2018); sequences have their oldest item first.
    columns : mapping of str to str, optional
        For a table, the columns that hold ``user_id``, ``item_id``, ``timestamp`` and ``rating``;
        those not given are guessed from common names.
    overwrite : bool
        Whether an existing target may be replaced.

    Raises
    ------
    DataError
        If the source cannot be read as what it should be, or the target exists.
    SettingsError
        If ``name``, ``kind`` or ``columns`` is not usable.

    Notes
    -----
    Numeric times keep their unit; ISO dates become seconds since 1970 (UTC where no zone is given).
    Positions ``0, 1, 2, …`` stand in for times where the kind is ``sequences``.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise SettingsError(
            f"name {name!r} is no plain directory name; use letters, digits, '_', '-' and '.'"
        )
    _check_known("kind", kind, ("auto", *KINDS))
    for role in columns or ():
        _check_known("columns:", role, tuple(tabular.ROLES))
    target = out / name / f"{name}.inter"
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists already; choose another name or allow overwriting")
    check_readable(source)
    try:
        if kind == "auto":
            kind = "table" if columns else _detect(source)
        if columns and kind != "table":
            raise SettingsError(f"columns: the kind '{kind}' has no named columns; leave columns out")
        if kind == "table":
            table, notes = tabular.read_table(source, columns or {})
        else:
            table, notes = _READERS[kind](source)
        rows = complete_rows(source, table, kind)
    except UnicodeDecodeError as fault:
        raise DataError(f"{source}: is not UTF-8 text ({fault.reason}); convert it to UTF-8") from fault
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise DataError(f"{source}: is not a whole gzip file ({fault}); get it again") from fault
    n_dropped = len(table) - len(rows)
    if n_dropped:
        notes.append(f"dropped {n_dropped:,} of {len(table):,} rows without user, item or time")
    make_folder(target.parent)
    write_inter(rows, target)
    n_users, n_items = (compute.count_distinct(rows[role]).as_py() for role in ("user_id", "item_id"))
    return PreparedDataset(target, kind, n_users, n_items, len(rows), n_dropped, tuple(notes))


def _check_known(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise SettingsError(
            f"{what} '{given}' is unknown; there are {', '.join(known)}{nearest(given, known)}"
        )


def _detect(source: Path) -> str:
    """The kind of a file, by its first lines."""
    if tabular.is_parquet(source):
        return "table"
    lines = rawfiles.first_lines(source, _SNIFFED_LINES)
    if not lines:
        raise DataError(f"{source}: has only blank lines; build it again")
    if lines[0].lstrip().startswith("{"):
        return "amazon-reviews"
    fields = [line.split(tabular.sniff_separator(lines[0])) for line in lines]
    if {"user_id", "item_id"} <= tabular.guess_columns(fields[0]).keys():
        return "table"
    if _is_amazon_csv(source, lines):
        return "amazon-csv"
    if _are_sequences(lines):
        return "sequences"
    kinds = "; ".join(f"'{kind}' ({what})" for kind, what in KINDS.items())
    raise DataError(f"{source}: cannot tell what kind of file it is; set kind to one of {kinds}")


def _is_amazon_csv(source: Path, lines: list[str]) -> bool:
    rows = [line.split(",") for line in lines]
    if not all(len(row) == 4 and _is_number(row[2]) and _is_number(row[3]) for row in rows):
        return False
    asins = any(re.match(tabular.ASIN, field) for row in rows for field in row[:2])
    return asins or source.name.lower().startswith("ratings_")


def _are_sequences(lines: list[str]) -> bool:
    """Whether lines are ids between spaces, and not the columns of a table without a header."""
    rows = [line.split() for line in lines]
    widths = {len(row) for row in rows}
    if any(re.search(r"[\t,;|:{]", line) for line in lines) or max(widths) <= 2:
        return False
    is_block = len(rows) > 1 and len(widths) == 1 and max(widths) <= 4
    return not (is_block and all(_is_number(row[-1], at_least=1e8) for row in rows))


def _is_number(text: str, at_least: float = -np.inf) -> bool:
    try:
        return float(text) >= at_least
    except ValueError:
        return False
