"""Readers of the formats that people have: tables, Amazon's ratings and reviews, lines of sequences.

Each returns an arrow table with the columns ``user_id``, ``item_id``, ``timestamp`` and, if the file
has one, ``rating``, as the file holds them (text, or the types of JSON and Parquet), and notes for the user.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json
from tqdm import tqdm

from recbole_ra.core.errors import DataError, SettingsError, nearest
from recbole_ra.data.atomic import listed, shown
from recbole_ra.data.table import offsets_of, places

ROLES = {
    "user_id": "userid user uid reviewerid customerid customer visitorid memberid",
    "item_id": "itemid item iid movieid asin parentasin productid product articleid businessid bookid "
    "trackid songid gameid isbn sku",
    "timestamp": "timestamp time ts unixreviewtime unixtime datetime date eventtime createdat tdat",
    "rating": "rating overall stars score",
}
"""Column names known for each role, best first, compared without case and punctuation."""

ASIN = r"^(B[0-9A-Z]{9}|[0-9]{9}[0-9X])$"
"""Amazon's item ids: ten characters from B0…, or the ISBN of a book."""

_REVIEW_SCHEMA = pa.schema(
    {"reviewerID": pa.string(), "asin": pa.string(), "unixReviewTime": pa.float64(), "overall": pa.float64()}
)
_BLOCK_BYTES = 1 << 23

# No data packs like this: gzip makes text some 3 to 50 times smaller, and at best 1032 times.
_MOST_TIMES = 500
_MOST_BYTES = 1 << 26  # below, it does not matter


@contextlib.contextmanager
def explain_damage(source: Path) -> Iterator[None]:
    """Turn what a damaged file raises, or one that is not what its name says, into one clear line."""
    try:
        yield
    except UnicodeDecodeError as fault:
        raise DataError(f"{source}: is not UTF-8 text ({fault.reason}); convert it to UTF-8") from fault
    except (EOFError, zlib.error, gzip.BadGzipFile) as fault:
        raise DataError(f"{source}: is not a whole gzip file ({fault}); get it again") from fault
    except csv.Error as fault:
        raise DataError(f"{source}: is no table ({fault}); correct it") from fault
    except (pa.ArrowException, OSError) as fault:
        if isinstance(fault, OSError) and fault.errno is not None:  # the disk's, not Arrow's
            raise
        reason = (str(fault) or type(fault).__name__).splitlines()[0]
        what = "not Parquet, or damaged" if is_parquet(source) else "no table"
        raise DataError(f"{source}: is {what} ({reason}); write it again") from fault


def read_table(
    source: Path, columns: Mapping[str, str], *, needs_time: bool = True
) -> tuple[pa.Table, dict[str, str]]:
    """Read a CSV, TSV or Parquet file with named columns; returns the column of each role too.

    Raises
    ------
    DataError
        If a column is not there or cannot be guessed, or a row has the wrong number of fields.
    SettingsError
        If one column is named for two roles.
    """
    if is_parquet(source):
        used = choose_columns(source, parquet.read_schema(source).names, columns, needs_time=needs_time)
        table = parquet.read_table(source, columns=list(used.values()))
    else:
        separator, header = read_header(source)
        used = choose_columns(source, header, columns, needs_time=needs_time)
        table = read_delimited(source, separator, header, list(used.values()), header=True)
    return pa.table({role: table[name] for role, name in used.items()}), used


def read_header(source: Path) -> tuple[str, list[str]]:
    """Return the separator and the column names of a text file."""
    lines = first_lines(source, 1)
    separator = sniff_separator(lines[0]) if lines else ","
    return separator, next(csv.reader(lines, delimiter=separator), [])


def read_amazon_csv(source: Path) -> tuple[pa.Table, list[str]]:
    """Read Amazon ratings without a header.

    Raises
    ------
    DataError
        For a row that has not four fields, or if neither id column looks more like ASINs.
    """
    names = ["first", "second", "rating", "timestamp"]
    table = read_delimited(source, ",", names, names, header=False)
    if not len(table):
        raise DataError(f"{source}: holds no line that is not blank; get it again")
    first, second = (_share_of_asins(table[name]) for name in names[:2])
    if first == second:
        raise DataError(
            f"{source}: cannot tell users from items, {first:.0%} of both id columns look like ASINs; "
            "add a header line and use kind 'table'"
        )
    order = ("item_id", "user_id") if first > second else ("user_id", "item_id")
    column, release = ("first", "2018") if first > second else ("second", "2014")
    note = (
        f"read as {','.join(order)},rating,timestamp ({release} release): "
        f"{max(first, second):.1%} of the {column} column look like ASINs"
    )
    return table.rename_columns([*order, "rating", "timestamp"]).select(list(ROLES)), [note]


def is_parquet(source: Path) -> bool:
    """Tell whether a file is Parquet, by its name or its first bytes."""
    with source.open("rb") as file:
        return source.suffix.lower() in (".parquet", ".pq") or file.read(4) == b"PAR1"


def place_of_row(source: Path, row: int, *, header: bool) -> str:
    """Return ``"line 7"`` for a row (from 0) of a text file with fields, ``"row 6"`` for Parquet."""
    if is_parquet(source):
        return f"row {row}"
    rows = _csv_rows(source, sniff_separator(first_lines(source, 1)[0]))
    line, _ = next(islice(rows, row + header, None))
    return f"line {line}"


def sniff_separator(line: str) -> str:
    """Return the likely separator of a line of fields; a comma if there is none."""
    return max(",\t;|", key=line.count)


def guess_columns(header: list[str]) -> dict[str, str]:
    """Return the roles of common names in a header; RecBole's ``:type`` suffix is ignored."""
    plain = {re.sub("[^a-z0-9]", "", name.split(":")[0].lower()): name for name in reversed(header)}
    found = {role: [plain[word] for word in words.split() if word in plain] for role, words in ROLES.items()}
    return {role: names[0] for role, names in found.items() if names}


def parse_columns(text: str) -> dict[str, str] | None:
    """Read ``ROLE:COLUMN,...``; None if nothing is named.

    Raises
    ------
    SettingsError
        If a part is no pair, or a role is named twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        role, _, column = part.partition(":")
        if not column:
            raise SettingsError(f"--columns: '{part}' is not ROLE:COLUMN; for example user_id:customer")
        if role in found:
            raise SettingsError(f"--columns: {role} is named twice, as {found[role]} and {column}; keep one")
        found[role] = column
    return found or None


def choose_columns(
    source: Path, header: list[str], given: Mapping[str, str], *, needs_time: bool = True
) -> dict[str, str]:
    """Choose the column of each role: as given, otherwise by a common name; a rating may be absent."""
    wanted = {**guess_columns(header), **given}
    there = f"there are {listed(header)}"
    used: dict[str, str] = {}
    for role in ROLES:
        if role not in wanted:
            if role == "rating" or (role == "timestamp" and not needs_time):
                continue
            raise DataError(
                f"{source}: no column has a common name for {role}; {there}; name it: --columns={role}:NAME"
            )
        name = wanted[role]
        check_column(source, header, role, name)
        if name in used.values():
            raise SettingsError(f"columns: '{name}' is taken for two roles; name another for {role}")
        used[role] = name
    return used


def check_column(source: Path, header: list[str], role: str, name: str) -> None:
    """Raise DataError unless a header has one column of that name."""
    if header.count(name) != 1:
        count = "more than one column" if name in header else "no column"
        raise DataError(
            f"{source}: {count} '{name}' for {role}; there are {listed(header)}{nearest(name, header)}"
        )


def open_raw(source: Path) -> Any:
    """Open a file for reading bytes; gzip, by its name or its first bytes, is decompressed."""
    with source.open("rb") as file:
        is_packed = source.suffix.lower() == ".gz" or file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(_Unpacked(source), _MOST_BYTES >> 6) if is_packed else source.open("rb")


class _Unpacked(io.RawIOBase):
    """What a gzip file holds, up to a multiple of its size: a small file could fill the memory."""

    def __init__(self, source: Path) -> None:
        self.source, self.packed = source, source.open("rb")
        self._unpacked = gzip.GzipFile(fileobj=self.packed)
        self._left = max(_MOST_BYTES, _MOST_TIMES * source.stat().st_size)

    def readable(self) -> bool:
        """Say yes, as a buffered reader asks."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; raises DataError past the limit."""
        count = self._unpacked.readinto(buffer)
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self.source}: decompresses to more than {_MOST_TIMES} times its size, which no data does; "
                "if it is meant, decompress it first"
            )
        return count

    def close(self) -> None:
        """Close the file, too."""
        self.packed.close()
        super().close()


def first_lines(source: Path, count: int) -> list[str]:
    """Read the first lines that are not blank, for a look at the format.

    Raises
    ------
    DataError
        If they hold NUL bytes: it is no text.
    UnicodeDecodeError
        If they are not UTF-8.
    """
    with open_raw(source) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig")
        found = list(islice((line.rstrip("\r\n") for line in lines if line.strip()), count))
    if any("\0" in line for line in found):
        raise DataError(f"{source}: is no text, its first lines hold a NUL byte; get it again")
    return found


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
        packed = getattr(file.raw, "packed", file)
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
        text = file.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
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


def read_delimited(
    source: Path, separator: str, names: list[str], used: list[str], *, header: bool
) -> pa.Table:
    """Read the ``used`` columns of a text file, as text.

    Raises
    ------
    DataError
        For the first line with another number of fields, or with a double quote that is not closed.
    """
    try:
        with open_raw(source) as file:
            table = arrow_csv.read_csv(
                file,
                read_options=arrow_csv.ReadOptions(column_names=None if header else names),
                parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=header),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=used, column_types=dict.fromkeys(used, pa.string())
                ),
            )
    except (pa.ArrowInvalid, KeyError) as fault:  # the latter: Arrow finds other names in the header
        for line, fields in _csv_rows(source, separator):
            if len(fields) != len(names):
                raise DataError(
                    f"{source}, line {line}: {len(fields)} fields where there should be {len(names)}; "
                    "complete or remove the line"
                ) from fault
        raise DataError(f"{source}: is no table ({str(fault).splitlines()[0]}); correct it") from fault
    if len(table) + header != _n_filled_lines(source):  # fields of several lines, or quotes that joined lines
        for _ in _csv_rows(source, separator, strict=True):
            pass
    return table


def _n_filled_lines(source: Path) -> int:
    """Count the lines that are not empty, whatever ends them."""
    total, after_an_end = 0, True
    with open_raw(source) as file:
        while block := file.read(_BLOCK_BYTES):
            letters = np.frombuffer(block, np.uint8)
            is_end = np.concatenate([[after_an_end], (letters == ord("\n")) | (letters == ord("\r"))])
            total += int(np.count_nonzero(is_end[:-1] & ~is_end[1:]))
            after_an_end = bool(is_end[-1])
    return total


def _csv_rows(source: Path, separator: str, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the number of its first line; strict about double quotes."""
    with open_raw(source) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, delimiter=separator, strict=strict)
        line = 1
        try:
            for fields in reader:
                if fields:
                    yield line, fields
                line = reader.line_num + 1
        except csv.Error as fault:
            if not strict:
                raise
            raise DataError(
                f"{source}, line {line}: a double quote opens a field that does not end as it should "
                f"({fault}); remove or double it"
            ) from fault


def _share_of_asins(column: pa.ChunkedArray) -> float:
    return float(compute.sum(compute.match_substring_regex(column, ASIN)).as_py()) / len(column)


def _parse_reviews(source: Path, block: bytes, line: int) -> pa.Table:
    """Read the four fields of the objects in a block of whole lines, the first of them line ``line``."""
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
    except (ValueError, RecursionError) as fault:
        if text.lstrip().startswith(b"["):
            raise DataError(f"{where}: begins a JSON list; write one review a line, as an object") from fault
        what = "is nested too deep" if isinstance(fault, RecursionError) else f"is not JSON ({fault})"
        raise DataError(f"{where}: {what}; correct it") from fault
    if not isinstance(entry, dict):
        raise DataError(f"{where}: is no JSON object {{…}}; write one review a line")
    found = {name: entry.get(name) for name in _REVIEW_SCHEMA.names}
    for name in ("unixReviewTime", "overall"):
        if not isinstance(found[name], int | float | None):
            raise DataError(f"{where}: {name} is {shown(str(found[name]))}, must be a number")
    for name in ("reviewerID", "asin"):
        found[name] = None if found[name] is None else str(found[name])
        try:
            (found[name] or "").encode()
        except UnicodeEncodeError as fault:
            raise DataError(
                f"{where}: {name} holds half a character ({found[name]!r}); correct it"
            ) from fault
    return found
