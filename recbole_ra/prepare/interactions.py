"""Turn the files that people have into one RecBole atomic file of interactions."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute
from pyarrow import csv as arrow_csv

from recbole_ra.core.errors import DataError, SettingsError, nearest
from recbole_ra.core.files import explain_disk_errors, make_folder, replacing
from recbole_ra.data.atomic import LONGEST_FIELD, MISSING, check_readable, shown
from recbole_ra.prepare import readers
from recbole_ra.prepare.titles import TITLE, read_titles, titles_beside_events, write_titles

IDS = ("user_id", "item_id")
"""Roles that every row has as text; times and ratings are numbers."""

KINDS = {
    "amazon-csv": "ratings without a header: user,item,rating,timestamp",
    "amazon-reviews": "one JSON object a line",
    "sequences": "'user item item …' a line",
    "table": "CSV, TSV or Parquet with named columns",
}
"""What :func:`prepare` can read."""

_READERS = {
    "amazon-csv": readers.read_amazon_csv,
    "amazon-reviews": readers.read_reviews,
    "sequences": readers.read_sequences,
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
    titles: Path | None = None,
    overwrite: bool = False,
) -> PreparedDataset:
    """Write ``out/name/name.inter`` from a file of another format; rows keep their order.

    Titles of items, where there are any, go to ``name.item`` beside it.

    Parameters
    ----------
    source : Path
        The file; one whose name ends in ``.gz`` is decompressed while reading.
    name, out : str, Path
        Name of the data set, and the directory of data sets, RecBole's ``data_path``.
    kind : str
        One of :data:`KINDS`, or ``auto``: decided by name and content. Of Amazon's ratings, user and
        item may also stand the other way round (2018); sequences have their oldest item first.
    columns : mapping of str to str, optional
        For a table, the columns that hold ``user_id``, ``item_id``, ``timestamp`` and ``rating``, and
        ``title``; those not given are guessed from common names. Of ``titles``, the columns of that
        name, too.
    titles : Path, optional
        Where titles of items are (:func:`recbole_ra.prepare.titles.read_titles`); by default the source,
        if it is a table that has them.
    overwrite : bool
        Whether an existing target may be replaced; titles of the earlier one go with it.

    Raises
    ------
    DataError
        If the source cannot be read as what it should be, or the target exists.
    SettingsError
        If ``name``, ``kind`` or ``columns`` is not usable.

    Notes
    -----
    Numeric times keep their unit; ISO dates become seconds since 1970 (UTC where no zone is given).
    Positions ``0, 1, 2, …`` stand in for times where the kind is ``sequences``. Blanks around ids are left
    out.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise SettingsError(
            f"name {name!r} is no plain directory name; use letters, digits, '_', '-' and '.'"
        )
    target = out / name / f"{name}.inter"
    with explain_disk_errors(target):
        if target.exists() and not overwrite:
            raise DataError(f"{target}: exists already; choose another --name, or --overwrite it")
    of_rows = {role: column for role, column in (columns or {}).items() if role != TITLE}
    named = (columns or {}).get(TITLE)
    if named is not None and titles is None and kind == "auto":
        kind = "table"
    read = read_interactions(source, kind=kind, columns=of_rows)
    notes = list(read.notes)
    known: dict[str, str] = {}
    if titles is not None:
        known = read_titles(titles, item=of_rows.get("item_id"), title=named)
    elif read.kind == "table":
        with readers.explain_damage(source):
            known, column = titles_beside_events(source, read.columns["item_id"], named)
        notes[0] += f", title = {column}" if known else ""
    items = compute.unique(read.rows["item_id"]).to_pylist()
    titles_file = target.with_suffix(".item")
    make_folder(target.parent)
    try:
        if known:
            with replacing(titles_file) as temporary:  # there before the rows that they are of
                n_titles = write_titles(temporary, items, known)
                write_inter(read.rows, target)
            notes.append(f"titles of {n_titles:,} of {len(items):,} items")
        else:
            write_inter(read.rows, target)
            if titles_file.exists():
                titles_file.unlink()
                notes.append(f"removed {titles_file}, which was of the data set before")
    except BaseException:
        with contextlib.suppress(OSError):  # it may hold other files
            target.parent.rmdir()
        raise
    n_users = compute.count_distinct(read.rows["user_id"]).as_py()
    return PreparedDataset(
        target, read.kind, n_users, len(items), len(read.rows), read.n_dropped, tuple(notes)
    )


@dataclass(frozen=True)
class RawInteractions:
    """What a file holds.

    Attributes
    ----------
    rows : Table
        Ids as text, times and ratings as numbers; none is missing.
    kind : str
    columns : mapping of str to str
        Of a table: the column of each role.
    n_dropped : int
        Rows without user, item or time.
    notes : tuple of str
    """

    rows: pa.Table
    kind: str
    columns: Mapping[str, str]
    n_dropped: int
    notes: tuple[str, ...]


def read_interactions(
    source: Path, *, kind: str = "auto", columns: Mapping[str, str] | None = None, needs_time: bool = True
) -> RawInteractions:
    """Read interactions from a file of any of the :data:`KINDS`; parameters and errors as in :func:`prepare`.

    Without ``needs_time`` a table may lack times; its rows are in the order of time then.
    """
    _check_known("kind", kind, ("auto", *KINDS))
    for role in columns or ():
        _check_known("columns:", role, tuple(readers.ROLES))
    check_readable(source)
    used: Mapping[str, str] = {}
    with readers.explain_damage(source):
        if kind == "auto":
            kind = "table" if columns else _detect(source)
        if columns and kind != "table":
            raise SettingsError(f"columns: the kind '{kind}' has no named columns; leave columns out")
        if kind == "table":
            table, used = readers.read_table(source, columns or {}, needs_time=needs_time)
            notes = ["columns used: " + ", ".join(f"{role} = {name}" for role, name in used.items())]
        else:
            table, notes = _READERS[kind](source)
        rows = complete_rows(source, table, kind)
    n_dropped = len(table) - len(rows)
    if n_dropped:
        notes.append(f"dropped {n_dropped:,} of {len(table):,} rows without user, item or time")
    return RawInteractions(rows, kind, used, n_dropped, tuple(notes))


def complete_rows(source: Path, table: pa.Table, kind: str) -> pa.Table:
    """Keep the rows of a source that have user, item and time.

    Returns
    -------
    Table
        Ids as text, times and ratings as numbers: integers where all of them are whole.

    Raises
    ------
    DataError
        If there is no such row, or one holds what it should not.
    """
    table = pa.table({role: _plain(source, role, table[role]) for role in table.column_names})
    missing = {role: _is_missing(table[role]) for role in table.column_names}
    needed = [missing[role] for role in (*IDS, "timestamp") if role in missing]
    complete = ~np.any(needed, axis=0)
    row_in_source = np.flatnonzero(complete)
    if not len(row_in_source):
        raise DataError(
            f"{source}: none of its {len(table)} rows has user, item and time; "
            f"check that it is of kind '{kind}'"
        )
    rows = table if complete.all() else table.filter(pa.array(complete))
    for role in rows.column_names[len(IDS) :]:
        values = _numbers(rows[role], dates=role == "timestamp")
        is_bad = ~np.isfinite(values) & ~missing[role][complete]
        if is_bad.any():
            bad = int(np.argmax(is_bad))
            place = readers.place_of_row(source, int(row_in_source[bad]), header=kind == "table")
            what = "number or ISO date" if role == "timestamp" else "number"
            raise DataError(
                f"{source}, {place}: {role} {shown(str(rows[role][bad].as_py()))} is no {what}; "
                "correct it or name another column"
            )
        rows = rows.set_column(rows.column_names.index(role), role, _whole(values))
    return rows


def write_inter(rows: pa.Table, path: Path) -> None:
    """Write complete rows as an atomic file; it appears complete or not at all.

    Raises
    ------
    DataError
        If an id holds a tab, line break, double quote or NUL byte, or is too long.
    """
    for role in IDS:
        ids = rows[role]
        for is_bad, fault in (
            (
                compute.match_substring_regex(ids, r'[\t\r\n"\x00]'),
                "holds a tab, line break, double quote or NUL byte; replace it in the source",
            ),
            (
                compute.greater(compute.utf8_length(ids), LONGEST_FIELD),
                f"is longer than {LONGEST_FIELD:,} characters; shorten it in the source",
            ),
        ):
            bad = ids.filter(is_bad)
            if len(bad):
                raise DataError(f"{path}: {role} {shown(bad[0].as_py())} {fault}")
    header = "\t".join(f"{role}:{'token' if role in IDS else 'float'}" for role in rows.column_names)
    options = arrow_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(f"{header}\n".encode())
        arrow_csv.write_csv(rows, file, options)


def _check_known(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise SettingsError(
            f"{what} '{given}' is unknown; there are {', '.join(known)}{nearest(given, known)}"
        )


def _detect(source: Path) -> str:
    """Tell the kind of a file by its first lines."""
    if readers.is_parquet(source):
        return "table"
    lines = readers.first_lines(source, _SNIFFED_LINES)
    if not lines:
        raise DataError(f"{source}: has only blank lines; build it again")
    if re.match(r"\s*(\{|\[\s*($|[\[{]))", lines[0]):  # a list of reviews is then refused as such
        return "amazon-reviews"
    fields = [line.split(readers.sniff_separator(lines[0])) for line in lines]
    if {"user_id", "item_id"} <= readers.guess_columns(fields[0]).keys():
        return "table"
    if _is_amazon_csv(source, lines):
        return "amazon-csv"
    if _are_sequences(lines):
        return "sequences"
    kinds = "; ".join(f"'{kind}' ({what})" for kind, what in KINDS.items())
    raise DataError(
        f"{source}: cannot tell what kind of file it is; name the columns of a table, --columns=user_id:NAME,"
        f"item_id:NAME,timestamp:NAME, or say the --kind: {kinds}"
    )


def _is_amazon_csv(source: Path, lines: list[str]) -> bool:
    rows = [line.split(",") for line in lines]
    if not all(len(row) == 4 and _is_number(row[2]) and _is_number(row[3]) for row in rows):
        return False
    asins = any(re.match(readers.ASIN, field) for row in rows for field in row[:2])
    return asins or source.name.lower().startswith("ratings_")


def _are_sequences(lines: list[str]) -> bool:
    """Tell whether lines are ids between spaces, not the columns of a table without a header."""
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


def _plain(source: Path, role: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; times and ratings as text or numbers, dates as seconds since 1970."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(source, role, column.cast(kind.value_type))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        micros = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        column = compute.divide(micros.cast(pa.float64(), safe=False), 1e6)
    if role not in IDS and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column
    if pa.types.is_floating(column.type):
        try:
            column = compute.if_else(compute.is_nan(column), None, column).cast(pa.int64())
        except pa.ArrowInvalid as fault:
            raise DataError(f"{source}: {role} holds fractions; name a column of ids") from fault
    try:
        texts = column.cast(pa.large_string())
    except pa.ArrowException as fault:
        raise DataError(f"{source}: {role} holds {kind}; name a column of single values") from fault
    return compute.utf8_trim_whitespace(texts)


def _is_missing(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    if pa.types.is_large_string(column.type):
        return compute.is_in(column, pa.array([*MISSING, None], column.type)).to_numpy()
    return compute.is_null(column, nan_is_null=True).to_numpy()


def _numbers(column: pa.ChunkedArray, *, dates: bool) -> NDArray[np.float64]:
    """Read values as floats, NaN for what is no number.

    With ``dates``, a column whose first value is no number holds ISO dates, as seconds since 1970.
    """
    texts = column.to_pandas()
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
    if not dates or np.isfinite(values[0]):
        return values
    moments = pd.to_datetime(texts.astype(str), utc=True, format="ISO8601", errors="coerce")
    return ((moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(dtype=np.float64)


def _whole(values: NDArray[np.float64]) -> pa.Array:
    """Numbers, NaN as null, as integers if all of them are whole."""
    gap = np.isnan(values)
    whole = np.all(gap | ((values == np.floor(values)) & (np.abs(values) < 2**53)))
    return pa.array(np.where(gap, 0, values).astype(np.int64) if whole else values, mask=gap)
