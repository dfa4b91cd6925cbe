"""Titles of items: read from what a source has beside its interactions, kept in an atomic ``.item`` file."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from recbole_ra.core.errors import DataError

COLUMNS = ("title", "itemtitle", "movietitle", "productname", "itemname", "name")
"""Names of columns with titles, best first, compared without case and punctuation."""


def title_column(header: list[str]) -> str | None:
    """Return the column of a header that holds titles, or None; RecBole's ``:type`` suffix is ignored."""
    plain = {re.sub("[^a-z0-9]", "", name.split(":")[0].lower()): name for name in reversed(header)}
    return next((plain[word] for word in COLUMNS if word in plain), None)


def titles_beside(folder: Path, name: str, separator: str = "\t") -> dict[str, str]:
    """Read the titles of a data set from its ``.item`` file, by item; none if there is no such file.

    Raises
    ------
    DataError
        If it is no text.
    """
    path = folder / f"{name}.item"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(f"{path}: is not UTF-8 text ({fault.reason}); convert it to UTF-8") from fault
    rows = csv.reader(io.StringIO(text), delimiter=separator, quoting=csv.QUOTE_NONE)
    header = next(rows, [])
    column = title_column(header)
    ids = [place for place, cell in enumerate(header) if cell.split(":")[0] == "item_id"]
    if column is None or not ids:
        return {}
    item, title = ids[0], header.index(column)
    return {
        row[item]: row[title].strip() for row in rows if len(row) > max(item, title) and row[title].strip()
    }
