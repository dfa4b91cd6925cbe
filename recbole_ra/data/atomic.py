"""RecBole atomic files: checked before RecBole reads them, written whole or not at all.

RecBole fails late on bad input and pads, fills or drops some of it without a word. The check here
reads the file once in vectorised blocks; only when that fails does it go line by line to say where.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

from recbole_ra.core.errors import DataError, SettingsError, nearest
from recbole_ra.core.files import replacing

TYPES = ("token", "float", "token_seq", "float_seq")
"""Every column type that RecBole knows."""

MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""Texts that pandas, and with it RecBole, reads as "no value", also where an id is expected."""

INTER_TYPES = {"user_id": "token", "item_id": "token", "timestamp": "float", "rating": "float"}

_SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}
_BLOCK_BYTES = 1 << 23
_SHOWN = 40


def check_atomic_file(path: Path, *, required: Mapping[str, str], separator: str = "\t") -> None:
    """Check that RecBole can read an atomic file, and that nothing in it would be filled in silently.

    Takes time linear in the file and constant memory.

    Parameters
    ----------
    path : Path
        The file, for example ``dataset/x/x.inter``.
    required : mapping of str to str
        Columns that must be there and their types, ``{"timestamp": "float"}``. A required float
        column needs a finite number in every row; other float columns may have gaps.
    separator : str
        One character, RecBole's ``field_separator``.

    Raises
    ------
    DataError
        For the first fault, with file, line, value and remedy.
    SettingsError
        If the separator is not a single character.

    Notes
    -----
    A row without user or item is accepted: RecBole drops it with a warning of its own. The elements
    of ``float_seq`` columns are not looked at.
    """
    if len(separator) != 1:
        raise SettingsError(f"field_separator must be one character, got {separator!r}")
    check_readable(path)
    types = _read_header(path, separator)
    _check_required(path, types, required)
    n_rows = _scan(path, types, required, separator)
    if n_rows == 0:
        raise DataError(f"{path}: has a header but no rows; add interactions below line 1")


def write_inter(frame: pd.DataFrame, path: Path) -> None:
    """Write interactions as an atomic file; the file appears complete or not at all.

    Parameters
    ----------
    frame : DataFrame
        Columns ``user_id``, ``item_id``, ``timestamp`` and, if there, ``rating``; others are left
        out. Ids are written as text; times that are all whole numbers are written as such.
    path : Path
        Target in an existing directory; replaced if it exists.

    Raises
    ------
    DataError
        If a column is missing, an id holds a tab, line break or double quote, or a time is not a
        finite number.
    """
    lacking = [name for name in ("user_id", "item_id", "timestamp") if name not in frame.columns]
    if lacking:
        raise DataError(f"{path}: cannot be written without column '{lacking[0]}'")
    names = [name for name in INTER_TYPES if name in frame.columns]
    columns = [
        _text(frame[name], path) if INTER_TYPES[name] == "token" else _numbers(frame[name], path)
        for name in names
    ]
    options = arrow_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    header = "\t".join(f"{name}:{INTER_TYPES[name]}" for name in names) + "\n"
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode())
        arrow_csv.write_csv(pa.table(columns, names=names), file, options)


def check_readable(path: Path) -> None:
    """Check that a path is a file that is not empty.

    Raises
    ------
    DataError
        If it is missing, a directory, or empty.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a directory; name a file in it")
    if not path.exists():
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        where = nearest(path.name, siblings) if siblings else f"; there is no directory {path.parent}"
        raise DataError(f"{path}: no such file{where or '; check the path'}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty; download or build it again")


def split_line(line: str, separator: str) -> list[str] | None:
    """Return the fields of one line, or None if a quoted field in it is not closed properly."""
    if '"' not in line:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error:
        return None


def shown(value: str) -> str:
    """Quote a value for a one-line message, cut if it is long."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def _read_header(path: Path, separator: str) -> dict[str, str]:
    """Types of the columns by name, in file order."""
    with path.open("rb") as file:
        raw = file.readline().rstrip(b"\r\n")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise DataError(f"{path}, line 1: starts with a byte-order mark; save it as UTF-8 without BOM")
    header = _decode(raw, path, 1)
    fields = header.split(separator)
    if not any(_is_typed(field) for field in fields) or len(fields) == 1:
        for other, word in _SEPARATORS.items():
            if other != separator and sum(map(_is_typed, header.split(other))) > 1:
                raise DataError(
                    f"{path}, line 1: columns are separated by {word}, not {_word(separator)}; "
                    f"set field_separator to {other!r}"
                )
    if not any(":" in field for field in fields):
        raise DataError(
            f"{path}, line 1: no header, found {shown(header)}; the first line must name columns as "
            "name:type, such as user_id:token"
        )
    types: dict[str, str] = {}
    for field in fields:
        name, _, kind = field.partition(":")
        if kind not in TYPES:
            found = f"has the unknown type {shown(kind)}" if kind else "has no type"
            raise DataError(
                f"{path}, line 1: column {shown(name)} {found}; the types are {', '.join(TYPES)}"
                f"{nearest(kind, TYPES)}"
            )
        if name in types:
            raise DataError(f"{path}, line 1: column {shown(name)} is there twice; rename or remove one")
        types[name] = kind
    return types


def _check_required(path: Path, types: Mapping[str, str], required: Mapping[str, str]) -> None:
    for name, kind in required.items():
        if name not in types:
            raise DataError(
                f"{path}, line 1: no column '{name}:{kind}'; there are {', '.join(types)}"
                f"{nearest(name, types)}"
            )
        if types[name] != kind:
            raise DataError(
                f"{path}, line 1: column '{name}' is of type {types[name]}, must be {kind}; "
                f"write '{name}:{kind}' in the header and such values below it"
            )


def _scan(path: Path, types: Mapping[str, str], required: Mapping[str, str], separator: str) -> int:
    """Count rows, raising a :class:`DataError` for the first line with a fault."""
    n_rows, line = 0, 2
    with path.open("rb") as file:
        file.readline()
        while block := file.read(_BLOCK_BYTES) + file.readline():
            try:
                n_rows += _scan_block(block, types, required, separator)
            except pa.ArrowInvalid:
                # Reading line by line decides: if it finds no fault, arrow was merely the stricter one.
                n_rows += _scan_lines(path, block, line, types, required, separator)
            line += block.count(b"\n")
    return n_rows


def _scan_block(block: bytes, types: Mapping[str, str], required: Mapping[str, str], separator: str) -> int:
    """Count the rows of a block of whole lines, raising ``pa.ArrowInvalid`` if anything is wrong."""
    table = arrow_csv.read_csv(
        pa.BufferReader(block),
        read_options=arrow_csv.ReadOptions(column_names=list(types)),
        parse_options=arrow_csv.ParseOptions(delimiter=separator),
        convert_options=arrow_csv.ConvertOptions(
            column_types={n: pa.float64() if t == "float" else pa.string() for n, t in types.items()},
            null_values=list(MISSING),
            strings_can_be_null=False,
        ),
    )
    for name, kind in required.items():
        if kind == "float":
            column = table[name]
            if column.null_count or not compute.all(compute.is_finite(column), min_count=0).as_py():
                raise pa.ArrowInvalid(f"column {name} has gaps")
    return int(table.num_rows)


def _scan_lines(
    path: Path,
    block: bytes,
    line: int,
    types: Mapping[str, str],
    required: Mapping[str, str],
    separator: str,
) -> int:
    """Count the rows of a block that starts at ``line``, naming the first line with a fault."""
    names = list(types)
    floats = [column for column, name in enumerate(names) if types[name] == "float"]
    n_rows = 0
    for number, raw in enumerate(block.split(b"\n"), start=line):
        text = _decode(raw, path, number).rstrip("\r")
        if not text:
            continue
        n_rows += 1
        fields = split_line(text, separator)
        if fields is None:
            raise DataError(
                f"{path}, line {number}: a double quote opens a field and is not closed; remove it"
            )
        if len(fields) != len(names):
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields where the header has {len(names)}; "
                "complete or remove the line"
            )
        for column in floats:
            fault = _number_fault(fields[column], names[column] in required)
            if fault:
                raise DataError(f"{path}, line {number}: column '{names[column]}' {fault}")
    return n_rows


def _number_fault(text: str, needed: bool) -> str:
    """What is wrong with a value of a float column, and the remedy; empty if nothing."""
    text = text.strip()
    if text in MISSING:
        return f"has no value ({shown(text)}); fill it in or remove the line" if needed else ""
    try:
        value = float(text.replace("_", "?"))
    except ValueError:
        return f"holds {shown(text)}, which is not a number; correct it or remove the line"
    if needed and not np.isfinite(value):
        return f"holds {shown(text)}, which is not finite; correct it or remove the line"
    return ""


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as fault:
        raise DataError(
            f"{path}, line {number}: byte 0x{raw[fault.start]:02x} is not UTF-8 text; "
            "save the file as UTF-8, uncompressed"
        ) from fault


def _is_typed(field: str) -> bool:
    name, _, kind = field.partition(":")
    return bool(name) and kind in TYPES


def _word(separator: str) -> str:
    return _SEPARATORS.get(separator, repr(separator))


def _text(column: pd.Series, path: Path) -> pa.Array:
    """Ids as text; missing ones become empty fields."""
    if pd.api.types.is_integer_dtype(column.dtype):
        return pa.array(column).cast(pa.string())
    texts = column.astype(object).where(column.notna(), None).map(str, na_action="ignore")
    ids = pa.array(texts, pa.string())
    bad = ids.filter(compute.match_substring_regex(ids, r'[\t\r\n"]'))
    if len(bad):
        raise DataError(
            f"{path}: {column.name} {shown(bad[0].as_py())} holds a tab, line break or double quote; "
            "replace it in the source"
        )
    return ids


def _numbers(column: pd.Series, path: Path) -> pa.Array:
    """Floats, as whole numbers where all of them are; gaps are allowed for ratings only."""
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    gap = ~np.isfinite(values)
    if gap.any() and column.name == "timestamp":
        row = int(np.argmax(gap))
        raise DataError(f"{path}: timestamp of row {row} is {values[row]}; drop the row or give it a time")
    whole = np.all(gap | ((values == np.floor(values)) & (np.abs(values) < 2**53)))
    return pa.array(np.where(gap, 0, values).astype(np.int64) if whole else values, mask=gap)
