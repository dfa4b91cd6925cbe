"""Readers of files that are no tables: JSON reviews and lines of sequences.

Each returns an arrow table with the columns ``user_id``, ``item_id``, ``timestamp`` and, if the file
has one, ``rating``: ids as text, the others as numbers.
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute
from pyarrow import json as arrow_json
from tqdm import tqdm

from recbole_ra.core.errors import DataError
from recbole_ra.data.atomic import shown

_REVIEW_SCHEMA = pa.schema(
    {"reviewerID": pa.string(), "asin": pa.string(), "unixReviewTime": pa.float64(), "overall": pa.float64()}
)
_BLOCK_BYTES = 1 << 23


def read_reviews(source: Path) -> pa.Table:
    """Read Amazon reviews, one JSON object a line, block by block; shows progress on a terminal.

    Raises
    ------
    DataError
        For a line that is not a JSON object, or whose time or rating is not a number.
    """
    blocks = []
    line = 1
    with (
        source.open("rb") as raw,
        unpacked(source, raw) as file,
        tqdm(total=source.stat().st_size, unit="B", unit_scale=True, desc=source.name, disable=None) as bar,
    ):
        while block := file.read(_BLOCK_BYTES) + file.readline():
            blocks.append(_parse_reviews(source, block, line))
            line += block.count(b"\n")
            bar.update(raw.tell() - bar.n)
    return pa.concat_tables(blocks).rename_columns(["user_id", "item_id", "timestamp", "rating"])


def read_sequences(source: Path) -> pa.Table:
    """Read ``user item item …`` lines; an item's position stands in for its time.

    Raises
    ------
    DataError
        For a user without items or with two lines.
    """
    with source.open("rb") as raw, unpacked(source, raw) as file:
        text = file.read().decode("utf-8-sig")
    lines = compute.utf8_trim_whitespace(pa.array(text.split("\n"), pa.large_string()))
    filled = np.flatnonzero(compute.not_equal(lines, "").to_numpy(zero_copy_only=False))
    tokens = compute.utf8_split_whitespace(lines.take(pa.array(filled)))
    n_items = compute.list_value_length(tokens).to_numpy(zero_copy_only=False).astype(np.int64) - 1
    flat = tokens.flatten()
    start = np.cumsum(n_items + 1) - n_items - 1
    users = flat.take(pa.array(start))
    if (n_items == 0).any():
        bad = int(np.argmin(n_items))
        raise DataError(
            f"{source}, line {filled[bad] + 1}: user {shown(users[bad].as_py())} has no items; "
            "add them or remove the line"
        )
    again = pd.Series(users.to_pandas()).duplicated().to_numpy()
    if again.any():
        bad = int(np.argmax(again))
        raise DataError(
            f"{source}, line {filled[bad] + 1}: user {shown(users[bad].as_py())} had a line before; "
            "join the two in the order of time"
        )
    owner = np.repeat(np.arange(len(filled)), n_items)
    position = np.arange(len(owner)) - (start - np.arange(len(filled)))[owner]
    return pa.table(
        {
            "user_id": users.take(pa.array(owner)),
            "item_id": flat.take(pa.array(start[owner] + 1 + position)),
            "timestamp": position,
        }
    )


def first_lines(source: Path, count: int) -> list[str]:
    """The first lines that are not blank, for a look at the format."""
    found: list[str] = []
    with source.open("rb") as raw, unpacked(source, raw) as file:
        for line in io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace"):
            if line.strip():
                found.append(line.rstrip("\r\n"))
            if len(found) == count:
                break
    return found


def unpacked(source: Path, raw: IO[bytes]) -> Any:
    """The stream itself, or what it decompresses to if the file is named ``.gz``."""
    return gzip.GzipFile(fileobj=raw) if source.suffix.lower() == ".gz" else raw


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
    try:
        entry = json.loads(text)
    except ValueError as fault:
        raise DataError(f"{source}, line {line}: is not JSON ({fault}); correct it") from fault
    if not isinstance(entry, dict):
        raise DataError(f"{source}, line {line}: is no JSON object {{…}}; write one review a line")
    for name in ("unixReviewTime", "overall"):
        if not isinstance(entry.get(name), int | float | None):
            raise DataError(f"{source}, line {line}: {name} is {shown(str(entry[name]))}, must be a number")
    ids = {name: entry.get(name) for name in ("reviewerID", "asin")}
    return {name: entry.get(name) for name in _REVIEW_SCHEMA.names} | {
        name: None if value is None else str(value) for name, value in ids.items()
    }
