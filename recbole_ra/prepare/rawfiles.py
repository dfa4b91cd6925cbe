"""Readers of files that are no tables: JSON reviews and lines of sequences.

Each returns an arrow table with the columns ``user_id``, ``item_id``, ``timestamp`` and, if the file
has one, ``rating`` (ids as text, the others as numbers), and notes for the user.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute
from pyarrow import json as arrow_json
from tqdm import tqdm

from recbole_ra.core.errors import DataError
from recbole_ra.data.atomic import shown
from recbole_ra.data.table import offsets_of, places

_REVIEW_SCHEMA = pa.schema(
    {"reviewerID": pa.string(), "asin": pa.string(), "unixReviewTime": pa.float64(), "overall": pa.float64()}
)
_BLOCK_BYTES = 1 << 23


def open_raw(source: Path) -> Any:
    """Open a file for reading bytes; one whose name ends in ``.gz`` is decompressed."""
    return gzip.open(source) if source.suffix.lower() == ".gz" else source.open("rb")


def first_lines(source: Path, count: int) -> list[str]:
    """Read the first lines that are not blank, for a look at the format."""
    with open_raw(source) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace")
        filled = (line.rstrip("\r\n") for line in lines if line.strip())
        return list(itertools.islice(filled, count))


def read_reviews(source: Path) -> tuple[pa.Table, list[str]]:
    """Read Amazon reviews, one JSON object a line, block by block; shows progress on a terminal.

    Raises
    ------
    DataError
        For a line that is not a JSON object, or whose time or rating is not a number.
    """
    blocks = []
    line = 1
    size = source.stat().st_size
    with (
        open_raw(source) as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=source.name, disable=None) as bar,
    ):
        packed = getattr(file, "fileobj", file)
        while block := file.read(_BLOCK_BYTES) + file.readline():
            blocks.append(_parse_reviews(source, block, line))
            line += block.count(b"\n")
            bar.update(packed.tell() - bar.n)
    return pa.concat_tables(blocks).rename_columns(["user_id", "item_id", "timestamp", "rating"]), []


def read_sequences(source: Path) -> tuple[pa.Table, list[str]]:
    """Read ``user item item …`` lines; an item's position stands in for its time.

    Raises
    ------
    DataError
        For a user without items or with two lines.
    """
    with open_raw(source) as file:
        text = file.read().decode("utf-8-sig")
    lines = compute.utf8_trim_whitespace(pa.array(text.split("\n"), pa.large_string()))
    filled = np.flatnonzero(compute.not_equal(lines, "").to_numpy(zero_copy_only=False))
    tokens = compute.utf8_split_whitespace(lines.take(pa.array(filled)))
    n_items = compute.list_value_length(tokens).to_numpy(zero_copy_only=False).astype(np.int64) - 1
    flat = tokens.flatten()
    start = offsets_of(n_items + 1)[:-1]
    users = flat.take(pa.array(start))
    faults = (
        (n_items == 0, "has no items; add them or remove the line"),
        (users.to_pandas().duplicated().to_numpy(), "had a line before; join the two in the order of time"),
    )
    for is_bad, fault in faults:
        if is_bad.any():
            bad = int(np.argmax(is_bad))
            raise DataError(f"{source}, line {filled[bad] + 1}: user {shown(users[bad].as_py())} {fault}")
    columns = {
        "user_id": users.take(pa.array(np.repeat(np.arange(len(filled)), n_items))),
        "item_id": flat.take(pa.array(places(start + 1, n_items))),
        "timestamp": places(np.zeros_like(n_items), n_items),
    }
    return pa.table(columns), []


def _parse_reviews(source: Path, block: bytes, line: int) -> pa.Table:
    """The four fields of the objects in a block of whole lines, the first of them line ``line``."""
    try:
        return arrow_json.read_json(
            io.BytesIO(block),
            read_options=arrow_json.ReadOptions(block_size=len(block) + 1),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=_REVIEW_SCHEMA, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid:
        # Arrow is stricter than json (lone surrogates in a review's text): json has the last word.
        lines = ((number, text) for number, text in enumerate(block.split(b"\n"), start=line) if text.strip())
        return pa.Table.from_pylist([_parse_review(source, *each) for each in lines], schema=_REVIEW_SCHEMA)


def _parse_review(source: Path, line: int, text: bytes) -> dict[str, str | float | None]:
    where = f"{source}, line {line}"
    try:
        entry = json.loads(text)
    except ValueError as fault:
        raise DataError(f"{where}: is not JSON ({fault}); correct it") from fault
    if not isinstance(entry, dict):
        raise DataError(f"{where}: is no JSON object {{…}}; write one review a line")
    found = {name: entry.get(name) for name in _REVIEW_SCHEMA.names}
    for name in ("unixReviewTime", "overall"):
        if not isinstance(found[name], int | float | None):
            raise DataError(f"{where}: {name} is {shown(str(found[name]))}, must be a number")
    for name in ("reviewerID", "asin"):
        found[name] = None if found[name] is None else str(found[name])
    return found
