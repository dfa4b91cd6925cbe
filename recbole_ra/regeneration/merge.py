"""The regenerated training set: originals, mined and decoded patterns, de-duplicated (METHOD 1.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_ra.data.table import IntArray, Origin, SequenceTable, offsets_of, places

SHORTEST = 2
"""Fewest items of a row: one to predict and one before it."""


@dataclass(frozen=True, eq=False)
class RegeneratedData:
    """Sequences to train on, each with where it came from.

    Attributes
    ----------
    table : SequenceTable
        Rows of every origin, without times. The owner is the user of an ORIGINAL row, the user of the
        source sequence for a REGENERATED one, and -1 for a PATTERN.
    latent : int64 array, shape [rows]
        Latent space ``0 .. P - 1`` that a REGENERATED row was decoded from; -1 for all others, and
        where it is unknown.
    count : int64 array, shape [rows]
        Support of a PATTERN; how many pairs of a source and a latent space gave a REGENERATED row; 1 for an
        ORIGINAL, and where it is unknown.

    Raises
    ------
    ValueError
        If they do not fit each other, or the table has times.
    """

    table: SequenceTable
    latent: IntArray
    count: IntArray

    def __post_init__(self) -> None:
        decoded = self.table.origin == Origin.REGENERATED
        if self.latent.shape != (len(self.table),):
            raise ValueError(f"{len(self.table)} rows, but latent has shape {list(self.latent.shape)}")
        if self.count.shape != (len(self.table),):
            raise ValueError(f"{len(self.table)} rows, but count has shape {list(self.count.shape)}")
        if (self.latent < -1).any() or (self.latent[~decoded] != -1).any():
            raise ValueError("only a regenerated row has a latent space; it is -1 elsewhere")
        if self.table.times is not None:
            raise ValueError("a regenerated data set has no times")

    def __len__(self) -> int:
        return len(self.latent)

    def keep(self, origins: Collection[str]) -> RegeneratedData:
        """Return the rows of some :data:`~recbole_ra.data.table.ORIGINS`, in the same order."""
        return self._take(np.flatnonzero(self.table.is_from(origins)))

    def keep_repeated(self, times: int) -> RegeneratedData:
        """Return the rows without decoded ones that were written fewer times, in the same order."""
        rare = (self.table.origin == Origin.REGENERATED) & (self.count < times)
        return self._take(np.flatnonzero(~rare))

    def repeat_originals(self, copies: int) -> RegeneratedData:
        """Return the originals ``copies`` times (at least 1): those added as a block in front of all rows.

        The paper unites with them once, the released code twice (METHOD 7).
        """
        originals = np.flatnonzero(self.table.origin == Origin.ORIGINAL)
        return self._take(np.concatenate([np.tile(originals, copies - 1), np.arange(len(self))]))

    def originals_once(self, copies: int) -> RegeneratedData:
        """Undo :meth:`repeat_originals`.

        Raises
        ------
        ValueError
            If the number of originals is no multiple of ``copies``.
        """
        originals = np.flatnonzero(self.table.origin == Origin.ORIGINAL)
        if copies < 1 or len(originals) % copies:
            raise ValueError(f"{len(originals)} original rows are not {copies} copies of the same ones")
        added = originals[: len(originals) // copies * (copies - 1)]
        return self._take(np.delete(np.arange(len(self)), added))

    def _take(self, rows: IntArray) -> RegeneratedData:
        return RegeneratedData(take_rows(self.table, rows), self.latent[rows], self.count[rows])


def merge(
    original: SequenceTable,
    patterns: SequenceTable | None,
    decoded: SequenceTable | None,
    latent: IntArray | None,
    *,
    support: IntArray | None = None,
    deduplicate: str = "all",
) -> RegeneratedData:
    """Unite original sequences, mined patterns and decoded patterns into one training set (METHOD 1.5).

    A decoded row that several sources yield stays once and belongs to the first of them. Equal *original*
    rows of two users both stay, for they are the data of two people. Rows with fewer than two items cannot
    train anything and are dropped, whatever their origin.

    Parameters
    ----------
    original : SequenceTable
        Training sequences; validation and test parts are cut off already.
    patterns : SequenceTable, optional
    decoded : SequenceTable, optional
        What the regenerator produced, owned by the user of its source sequence.
    latent : int64 array, shape [decoded rows], optional
        Latent space of each decoded row; given exactly if ``decoded`` is.
    support : int64 array, shape [patterns], optional
        Of each pattern; by default 1.
    deduplicate : {"all", "decoded"}
        Drop a pattern or decoded row that equals, item by item, an earlier one in the order originals,
        patterns, decoded; or, as the released code does, decoded rows that equal a decoded one alone: those
        that equal a mined pattern are what the regenerator learned best.

    Returns
    -------
    RegeneratedData
        Originals in table order, then patterns, then decoded rows. The origin follows from the argument
        that a row came in, not from the ``origin`` of its table.

    Raises
    ------
    ValueError
        If the vocabularies differ, or ``latent`` does not belong to ``decoded``.
    """
    if (None if decoded is None else len(decoded)) != (None if latent is None else len(latent)):
        raise ValueError("latent must be given exactly if decoded is, one number a row")
    sources = {Origin.ORIGINAL: original, Origin.PATTERN: patterns, Origin.REGENERATED: decoded}
    tables = {origin: table for origin, table in sources.items() if table is not None}
    table = concatenate(list(tables.values()))
    origin = np.repeat(np.array(list(tables), dtype=np.uint8), [len(part) for part in tables.values()])
    space = np.full(len(table), -1)
    if latent is not None:
        space[origin == Origin.REGENERATED] = latent
    codes = row_codes(table)
    count = np.ones(len(table), dtype=np.int64)
    is_decoded = origin == Origin.REGENERATED
    count[is_decoded] = np.bincount(codes[is_decoded], minlength=1)[codes[is_decoded]]
    if support is not None:
        count[origin == Origin.PATTERN] = support
    compared = np.ones(len(table), dtype=bool) if deduplicate == "all" else is_decoded
    is_again = np.zeros(len(table), dtype=bool)
    is_again[compared] = pd.Series(codes[compared]).duplicated().to_numpy()
    keep = ((origin == Origin.ORIGINAL) | ~is_again) & (table.lengths >= SHORTEST)
    united = RegeneratedData(dataclasses.replace(table, origin=origin), space, count)
    return united._take(np.flatnonzero(keep))


def row_codes(table: SequenceTable) -> IntArray:
    """Number the distinct rows from 0: two rows get the same number exactly if they hold the same items."""
    size = table.items.itemsize
    offsets, items = pa.py_buffer(table.offsets * size), pa.py_buffer(np.ascontiguousarray(table.items))
    rows = pa.Array.from_buffers(pa.large_binary(), len(table), [None, offsets, items])
    return rows.dictionary_encode().indices.to_numpy().astype(np.int64)


def take_rows(table: SequenceTable, rows: IntArray) -> SequenceTable:
    """Return the named rows of a table, in that order, without times; a row may be named repeatedly."""
    lengths = table.lengths[rows]
    return SequenceTable(
        table.items[places(table.offsets[rows], lengths)],
        offsets_of(lengths),
        table.users[rows],
        table.n_items,
        table.origin[rows],
    )


def concatenate(tables: Sequence[SequenceTable]) -> SequenceTable:
    """Return the rows of all tables, one table after the other, without times.

    Raises
    ------
    ValueError
        If there is no table, or two have different vocabularies.
    """
    sizes = {table.n_items for table in tables}
    if len(sizes) != 1:
        raise ValueError(f"need tables over one vocabulary, got sizes {sorted(sizes)}")
    items, lengths, users, origin = (
        np.concatenate([getattr(table, name) for table in tables])
        for name in ("items", "lengths", "users", "origin")
    )
    return SequenceTable(items, offsets_of(lengths), users, sizes.pop(), origin)
