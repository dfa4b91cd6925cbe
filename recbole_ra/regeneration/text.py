"""Sequences as lines of text, without a Python loop over rows: what all exported files share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import replacing
from recbole_ra.data.atomic import shown
from recbole_ra.data.table import IntArray, places

SEPARATORS = (" ", ",", ";", "|")
"""What may stand between the items of a row: the first that is in no item token."""

_BLOCK_ITEMS = 1 << 20


def item_separator(item_tokens: Sequence[str]) -> str:
    """What stands between the items of a row: the first of :data:`SEPARATORS` that is in no token.

    Raises
    ------
    DataError
        If each of them is in some token.
    """
    everything = "\n".join(item_tokens[1:])
    for separator in SEPARATORS:
        if separator not in everything:
            return separator
    raise DataError(
        f"item tokens hold every possible separator ({', '.join(map(repr, SEPARATORS))}); "
        f"rename the items with {SEPARATORS[-1]!r} in the .inter file"
    )


def join_items(
    flat: NDArray[np.int32], start: IntArray, length: IntArray, tokens: pa.Array, separator: str
) -> pa.Array:
    """The tokens of ``flat[start[i] : start[i] + length[i]]`` as one text for each row."""
    offsets = np.concatenate([[0], np.cumsum(length)])
    items = tokens.take(pa.array(flat[places(start, length)]))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items)
    return compute.binary_join(lists, separator)


def owners(users: IntArray, tokens: pa.Array) -> pa.Array:
    """The token of each owner; the last token stands for nobody, -1."""
    return tokens.take(pa.array(np.where(users < 0, len(tokens) - 1, users)))


def blocks(sizes: IntArray, columns: Callable[[slice], list[pa.Array]]) -> Iterator[list[pa.Array]]:
    """``columns`` of consecutive rows, about a million items (``sizes`` counts them) each time."""
    number = np.cumsum(sizes) // _BLOCK_ITEMS
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    for first, last in itertools.pairwise(bounds):
        yield columns(slice(first, last))


def write_lines(path: Path, header: str, parts: Iterable[list[pa.Array]]) -> None:
    """Write blocks of columns, separated by tabs, below a header; the file appears whole or not at all."""
    with replacing(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(header + "\n")
            for columns in parts:
                lines = compute.binary_join_element_wise(*columns, "\t")
                file.write("\n".join(lines.to_pylist()) + "\n")


def refuse_broken(where: Path | str, tokens: pa.Array, what: str) -> None:
    """Refuse tokens that would break a line or a column, or vanish."""
    broken = compute.match_substring_regex(tokens, "[\\t\\n\\r\\x00]")
    fault = "cannot be written, as it is empty or holds a tab or line break"
    refuse(where, tokens, compute.or_(broken, compute.equal(tokens, "")), what, fault)


def refuse(where: Path | str, tokens: pa.Array, bad: Any, what: str, fault: str) -> None:
    """Raise for the first token that is bad."""
    place = compute.index(bad, True).as_py()
    if place >= 0:
        raise DataError(
            f"{where}: {what} {shown(tokens[place].as_py())} {fault}; rename it in the .inter file"
        )
