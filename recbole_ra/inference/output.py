"""Tables written part by part, whole or not at all: CSV, TSV, Parquet or JSON lines, by the file's ending."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from recbole_ra.core.errors import RequestError
from recbole_ra.core.files import make_folder, replacing

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl")

_TYPES = {
    "user": pa.string(),
    "item": pa.string(),
    "title": pa.string(),
    "score": pa.float32(),
    "rank": pa.int64(),
}


def check_ending(path: Path) -> None:
    """Raise RequestError unless a file can be written by that name."""
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"{path}: its ending must be one of {', '.join(FORMATS)}; rename it")


@contextlib.contextmanager
def table_writer(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Give a function that appends tables of recommendations to a file; it appears when all are written.

    Raises
    ------
    RequestError
        If the ending is unknown.
    """
    check_ending(path)
    make_folder(path.parent)
    with replacing(path) as temporary, contextlib.ExitStack() as stack:
        if path.suffix.lower() == ".parquet":
            writer: list[parquet.ParquetWriter] = []

            def write(table: pd.DataFrame) -> None:
                schema = pa.schema({name: _TYPES[name] for name in table.columns})
                if not writer:
                    writer.append(stack.enter_context(parquet.ParquetWriter(temporary, schema)))
                columns = [
                    pa.array(table[name].astype(str) if name == "user" else table[name], _TYPES[name])
                    for name in table.columns
                ]
                writer[0].write_table(pa.table(columns, schema=schema))

        else:
            file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
            separator = "\t" if path.suffix.lower() == ".tsv" else ","

            def write(table: pd.DataFrame) -> None:
                if path.suffix.lower() == ".jsonl":
                    if table.empty:  # of which pandas makes an empty line
                        return
                    table.to_json(file, orient="records", lines=True, force_ascii=False)
                else:
                    table.to_csv(file, sep=separator, index=False, header=file.tell() == 0)

        yield write
        stack.close()
