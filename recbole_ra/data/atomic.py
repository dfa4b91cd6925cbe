"""Checks of RecBole atomic files, made before RecBole reads them.

RecBole fails late on bad input and pads, fills or drops some of it without a word. The check here
reads the file once in vectorised blocks; only a block that fails is read line by line to say where.
"""

from __future__ import annotations

import csv
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

from recbole_ra.core.errors import DataError, SettingsError, nearest

TYPES = ("token", "float", "token_seq", "float_seq")
"""Every column type that RecBole knows."""

MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>",
    "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""Texts that pandas, and with it RecBole, reads as "no value", also where an id is expected."""

LONGEST_FIELD = 131_072
"""Characters of a field that Python's csv module, and with it RecBole, reads at most."""

_SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "space"}
_BLOCK_BYTES = 1 << 23
_SHOWN = 40
_SHOWN_NAMES = 200


def check_atomic_file(path: Path, *, required: Mapping[str, str], separator: str = "\t") -> None:
    """Check that RecBole can read an atomic file, and that nothing in it would be filled in silently.

    Takes time linear in the file and constant memory. A row without user or item is accepted: RecBole drops
    it with a warning of its own. The elements of ``float_seq`` columns are not looked at.

    Parameters
    ----------
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
    """
    if len(separator) != 1:
        raise SettingsError(f"field_separator must be one character, got {separator!r}")
    check_readable(path)
    types = _read_header(path, separator)
    for name, kind in required.items():
        if name not in types:
            raise DataError(
                f"{path}, line 1: no column '{name}:{kind}'; there are {listed(types)}{nearest(name, types)}"
            )
        if types[name] != kind:
            raise DataError(
                f"{path}, line 1: column '{name}' is of type {types[name]}, must be {kind}; "
                f"write '{name}:{kind}' in the header and such values below it"
            )
    kinds = types | {name: "number" for name, kind in required.items() if kind == "float"}
    n_rows, line = 0, 2
    with path.open("rb") as file:
        file.readline()
        while block := file.read(_BLOCK_BYTES) + file.readline():
            try:
                n_rows += _count_rows(block, kinds, separator)
            except pa.ArrowInvalid:
                # Reading line by line decides: if it finds no fault, arrow was merely the stricter one.
                n_rows += _count_lines(path, block, line, kinds, separator)
            line += block.count(b"\n")
    if n_rows == 0:
        raise DataError(f"{path}: has a header but no rows; add interactions below line 1")


def check_readable(path: Path) -> None:
    """Check that a path is a file that is not empty.

    Raises
    ------
    DataError
        If it is missing, a directory, a device, not to be opened, or empty.
    """
    try:
        about = path.stat()
        if stat.S_ISREG(about.st_mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        where = nearest(path.name, siblings) if siblings else f"; there is no directory {path.parent}"
        raise DataError(f"{path}: no such file{where or '; check the path'}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(about.st_mode):
        raise DataError(f"{path}: is a directory; name a file in it")
    if not stat.S_ISREG(about.st_mode):
        raise DataError(f"{path}: is no file but a device or pipe; save what it holds as a file")
    if about.st_size == 0:
        raise DataError(f"{path}: is empty; download or build it again")


def is_there(path: Path) -> bool:
    """Tell whether something has that name, be it a link that leads nowhere.

    Raises
    ------
    DataError
        If that cannot be found out.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); check its name, links and permissions")


def shown(value: str) -> str:
    """Quote a value for a one-line message, cut if it is long."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def listed(names: Iterable[str]) -> str:
    """List names for a one-line message, cut if there are many."""
    text = ", ".join(names)
    return text if len(text) <= _SHOWN_NAMES else text[:_SHOWN_NAMES] + "…"


def _read_header(path: Path, separator: str) -> dict[str, str]:
    """Types of the columns by name, in file order."""
    with path.open("rb") as file:
        raw = file.readline(LONGEST_FIELD)
    header = _decode(raw.rstrip(b"\r\n"), path, 1)
    where = f"{path}, line 1"
    if len(raw) == LONGEST_FIELD:
        raise DataError(f"{where}: is longer than any header, found {shown(header)}; build the file again")
    if header.startswith("\ufeff"):
        raise DataError(f"{where}: starts with a byte-order mark; save it as UTF-8 without BOM")
    other = max(_SEPARATORS, key=lambda each: _n_typed(header, each))
    if _n_typed(header, other) > max(1, _n_typed(header, separator)):
        raise DataError(
            f"{where}: columns are separated by {_SEPARATORS[other]}, not "
            f"{_SEPARATORS.get(separator, repr(separator))}; set field_separator to {other!r}"
        )
    if ":" not in header:
        raise DataError(
            f"{where}: no header, found {shown(header)}; the first line must name columns as "
            "name:type, such as user_id:token"
        )
    types: dict[str, str] = {}
    for field in header.split(separator):
        name, _, kind = field.partition(":")
        if kind not in TYPES:
            found = f"has the unknown type {shown(kind)}" if kind else "has no type"
            raise DataError(
                f"{where}: column {shown(name)} {found}; the types are {', '.join(TYPES)}"
                f"{nearest(kind, TYPES)}"
            )
        if name in types:
            raise DataError(f"{where}: column {shown(name)} is there twice; rename or remove one")
        types[name] = kind
    return types


def _n_typed(header: str, separator: str) -> int:
    return sum(field.partition(":")[2] in TYPES for field in header.split(separator))


def _count_rows(block: bytes, kinds: Mapping[str, str], separator: str) -> int:
    """Count the rows of a block of whole lines, raising ``pa.ArrowInvalid`` if anything is wrong.

    A column of kind ``number`` is a float column without gaps.
    """
    line_ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    longest = np.diff(line_ends, prepend=-1, append=len(block)).max() - 1
    if longest > LONGEST_FIELD or b"\0" in block or b'"' in block:
        raise pa.ArrowInvalid("a field may be too long or quoted over lines, or there is a NUL byte")
    is_float = {name: kind in ("float", "number") for name, kind in kinds.items()}
    table = arrow_csv.read_csv(
        pa.BufferReader(block),
        read_options=arrow_csv.ReadOptions(column_names=list(kinds)),
        parse_options=arrow_csv.ParseOptions(delimiter=separator),
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: pa.float64() if is_float[name] else pa.string() for name in kinds},
            null_values=list(MISSING),
            strings_can_be_null=False,
        ),
    )
    for name, kind in kinds.items():
        if kind != "number":
            continue
        finite = compute.all(compute.is_finite(table[name]), skip_nulls=False, min_count=0)
        if not finite.as_py():
            raise pa.ArrowInvalid(f"column {name} has gaps")
    return int(table.num_rows)


def _count_lines(path: Path, block: bytes, line: int, kinds: Mapping[str, str], separator: str) -> int:
    """Count the rows of a block that starts at ``line``, naming the first line with a fault."""
    n_rows = 0
    for number, raw in enumerate(block.split(b"\n"), start=line):
        text = _decode(raw, path, number).rstrip("\r")
        if not text:
            continue
        n_rows += 1
        where = f"{path}, line {number}"
        if "\r" in text:
            raise DataError(f"{where}: a carriage return inside ends the line for some readers; remove it")
        try:
            quoted = csv.reader([text], delimiter=separator, strict=True)
            fields = next(quoted) if '"' in text else text.split(separator)
        except csv.Error as error:
            if "field limit" in str(error):
                raise _too_long(where) from error
            raise DataError(f"{where}: a double quote opens a field and is not closed; remove it") from error
        if max(map(len, fields)) > LONGEST_FIELD:
            raise _too_long(where)
        if len(fields) != len(kinds):
            raise DataError(
                f"{where}: {len(fields)} fields where the header has {len(kinds)}; "
                "complete or remove the line"
            )
        for (name, kind), field in zip(kinds.items(), fields, strict=True):
            fault = _number_fault(field.strip(), kind)
            if fault:
                raise DataError(f"{where}: column '{name}' {fault} or remove the line")
    return n_rows


def _too_long(where: str) -> DataError:
    return DataError(
        f"{where}: a field holds more than {LONGEST_FIELD:,} characters, which RecBole does not read; "
        "shorten it"
    )


def _number_fault(text: str, kind: str) -> str:
    """Return what is wrong with a value of a column, and the remedy; empty if nothing."""
    if kind not in ("float", "number"):
        return ""
    if text in MISSING:
        return f"has no value ({shown(text)}); fill it in" if kind == "number" else ""
    try:
        value = float(text.replace("_", "?"))
    except ValueError:
        return f"holds {shown(text)}, which is not a number; correct it"
    if kind == "number" and not np.isfinite(value):
        return f"holds {shown(text)}, which is not finite; correct it"
    return ""


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as fault:
        raise DataError(
            f"{path}, line {number}: byte 0x{raw[fault.start]:02x} is not UTF-8 text; "
            "save the file as UTF-8, uncompressed"
        ) from fault
    if "\0" in text:
        raise DataError(f"{path}, line {number}: holds a NUL byte; remove it, or build the file again")
    return text
