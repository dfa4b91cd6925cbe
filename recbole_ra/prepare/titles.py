"""Titles of items: read from what a source has beside its interactions, kept in an atomic ``.item`` file."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute, parquet

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import write_bytes
from recbole_ra.data.atomic import check_readable
from recbole_ra.prepare.readers import (
    check_column,
    explain_damage,
    first_lines,
    guess_columns,
    is_parquet,
    open_raw,
    read_delimited,
    read_header,
)

TITLE = "title"
COLUMNS = ("title", "itemtitle", "movietitle", "productname", "itemname", "name")
"""Names of columns with titles, best first, compared without case and punctuation."""


def title_column(header: list[str], *, of_events: bool = False) -> str | None:
    """Return the column of a header that holds titles, or None; RecBole's ``:type`` suffix is ignored.

    In a table of interactions a plain ``name`` may as well be the user's, so it does not count.
    """
    plain = {re.sub("[^a-z0-9]", "", name.split(":")[0].lower()): name for name in reversed(header)}
    return next(
        (plain[word] for word in COLUMNS if word in plain and not (of_events and word == "name")), None
    )


def titles_beside(folder: Path, name: str, separator: str = "\t") -> dict[str, str]:
    """Read the titles of a data set from its ``.item`` file, by item; none if there is no such file.

    Raises
    ------
    DataError
        If it is no text, or no table.
    """
    path = folder / f"{name}.item"
    if not path.is_file():
        return {}
    with explain_damage(path):
        text = path.read_text(encoding="utf-8-sig")
        rows = csv.reader(io.StringIO(text), delimiter=separator, quoting=csv.QUOTE_NONE)
        header = next(rows, [])
        column = title_column(header)
        ids = [place for place, cell in enumerate(header) if cell.split(":")[0] == "item_id"]
        if column is None or not ids:
            return {}
        item, title = ids[0], header.index(column)
        return {
            row[item]: row[title].strip()
            for row in rows
            if len(row) > max(item, title) and row[title].strip()
        }


def read_titles(source: Path, *, item: str | None = None, title: str | None = None) -> dict[str, str]:
    """Read titles from a file, by item.

    Parameters
    ----------
    source : Path
        Amazon's metadata (one object a line, as JSON or, in the release of 2014, as Python writes it), or
        a CSV, TSV, Parquet or ``.item`` file with columns for item and title.
    item, title : str, optional
        Their columns, where they have these names; otherwise they are guessed from common ones.

    Raises
    ------
    DataError
        If it holds none.
    """
    check_readable(source)
    with explain_damage(source):
        return _titles_of(source, item, title)


def _titles_of(source: Path, item: str | None, title: str | None) -> dict[str, str]:
    if not is_parquet(source):
        lines = first_lines(source, 1)
        if lines and lines[0].lstrip().startswith("{"):
            return _titles_of_objects(source)
    header = _header(source)
    items = item if item in header else guess_columns(header).get("item_id")
    texts = title if title in header else title_column(header)
    missing = [role for role, column in (("item_id", items), (TITLE, texts)) if column is None]
    if items is None or texts is None:
        raise DataError(
            f"{source}: no column for {' and '.join(missing)}; there are {', '.join(header)}; name it: "
            f"--columns={missing[0]}:NAME"
        )
    return _titles_of_table(source, items, texts)


def titles_beside_events(source: Path, item: str, title: str | None) -> tuple[dict[str, str], str | None]:
    """Read the titles that a table of interactions has, by its column of items.

    Parameters
    ----------
    title : str, optional
        Their column; by default one with a common name for titles.

    Returns
    -------
    dict of str to str
        Titles by item; empty without such a column.
    str or None
        The column.

    Raises
    ------
    DataError
        If the column that is named is not there once.
    """
    header = _header(source)
    if title is not None:
        check_column(source, header, TITLE, title)
    title = title_column(header, of_events=True) if title is None else title
    return ({} if title in (None, item) else _titles_of_table(source, item, str(title))), title


def _header(source: Path) -> list[str]:
    return parquet.read_schema(source).names if is_parquet(source) else read_header(source)[1]


def _titles_of_table(source: Path, item: str, title: str) -> dict[str, str]:
    if is_parquet(source):
        table = parquet.read_table(source, columns=[item, title])
    else:
        separator, header = read_header(source)
        table = read_delimited(source, separator, header, [item, title], header=True)
    pairs = pa.table(
        {
            name: compute.utf8_trim_whitespace(table[column].cast(pa.string()))
            for name, column in (("item", item), ("title", title))
        }
    )
    pairs = pairs.filter(compute.greater(compute.utf8_length(pairs["title"]), 0))
    first = pairs.group_by("item", use_threads=False).aggregate([("title", "first")])
    found = zip(first["item"].to_pylist(), first["title_first"].to_pylist(), strict=True)
    return {name: text for name, text in found if name}


def write_titles(path: Path, items: Iterable[str], titles: Mapping[str, str]) -> int:
    """Write the titles of some items as an atomic file; returns how many there are.

    Line breaks and tabs become spaces, double quotes single ones: RecBole reads neither.
    """
    known = {item: " ".join(titles[item].replace('"', "'").split()) for item in items if item in titles}
    lines = ["item_id:token\ttitle:token", *(f"{item}\t{title}" for item, title in known.items() if title)]
    write_bytes(path, ("\n".join(lines) + "\n").encode(errors="replace"))  # half a character is none
    return len(lines) - 1


def _titles_of_objects(source: Path) -> dict[str, str]:
    found = {}
    with open_raw(source) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            entry = _object(source, number, line)
            item = entry.get("parent_asin") or entry.get("asin") or entry.get("item_id")
            title = entry.get("title")
            if item is not None and isinstance(title, str) and title.strip():
                found[str(item)] = title.strip()
    return found


def _object(source: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
        try:
            entry = json.loads(text)
        except ValueError:
            entry = ast.literal_eval(text)  # plain values only; nothing is executed
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as fault:
        raise DataError(f"{source}, line {number}: is no object {{…}}; correct or remove it") from fault
    if not isinstance(entry, dict):
        raise DataError(f"{source}, line {number}: is no object {{…}}; correct or remove it")
    return entry
