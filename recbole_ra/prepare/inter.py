"""Rows of an atomic file of interactions: complete, of the right types, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute
from pyarrow import csv as arrow_csv

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import replacing
from recbole_ra.data.atomic import MISSING, shown
from recbole_ra.prepare.tabular import place_of_row

IDS = ("user_id", "item_id")


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
    complete = ~(missing["user_id"] | missing["item_id"] | missing["timestamp"])
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
            place = place_of_row(source, int(row_in_source[bad]), header=kind == "table")
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
        If an id holds a tab, line break or double quote.
    """
    for role in IDS:
        bad = rows[role].filter(compute.match_substring_regex(rows[role], r'[\t\r\n"]'))
        if len(bad):
            raise DataError(
                f"{path}: {role} {shown(bad[0].as_py())} holds a tab, line break or double quote; "
                "replace it in the source"
            )
    header = "\t".join(f"{role}:{'token' if role in IDS else 'float'}" for role in rows.column_names)
    options = arrow_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(f"{header}\n".encode())
        arrow_csv.write_csv(rows, file, options)


def _plain(source: Path, role: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as text; times and ratings as text or numbers, dates as seconds since 1970."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(source, role, column.cast(kind.value_type))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        micros = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        column = compute.divide(micros.cast(pa.float64()), 1e6)
    if role not in IDS and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column
    if pa.types.is_floating(column.type):
        try:
            column = compute.if_else(compute.is_nan(column), None, column).cast(pa.int64())
        except pa.ArrowInvalid as fault:
            raise DataError(f"{source}: {role} holds fractions; name a column of ids") from fault
    try:
        return column.cast(pa.large_string())
    except pa.ArrowException as fault:
        raise DataError(f"{source}: {role} holds {kind}; name a column of single values") from fault


def _is_missing(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    if pa.types.is_large_string(column.type):
        return compute.is_in(column, pa.array([*MISSING, None], column.type)).to_numpy()
    return compute.is_null(column, nan_is_null=True).to_numpy()


def _numbers(column: pa.ChunkedArray, *, dates: bool) -> NDArray[np.float64]:
    """Values as floats, NaN for what is no number.

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
