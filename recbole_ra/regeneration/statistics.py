"""Numbers for looking at a regenerated data set against the original one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_ra.data.table import IntArray, Origin, SequenceTable
from recbole_ra.regeneration.decoding import Decoded
from recbole_ra.regeneration.merge import SHORTEST, RegeneratedData, concatenate, row_codes, take_rows

Numbers = dict[str, Any]
"""Numbers by name, as they stand in JSON."""


@dataclass(frozen=True)
class RegenerationStatistics:
    """A regenerated data set in numbers.

    Attributes
    ----------
    n_items : int
        Items of the vocabulary, without padding.
    origins : dict of str to dict
        By name of the origin, ``"original"`` first; only origins that occur. ``rows`` and ``interactions``
        are counts, ``lengths`` the rows of each length, shortest first, ``coverage`` the share of the
        vocabulary that occurs, ``transitions`` the distinct pairs of adjacent items, ``new_transitions``
        the share of them that are adjacent, in this order, in no original row, ``new_occurrences`` the
        same share with every occurrence counted, and ``dropped`` the rows that were left out, because an
        earlier one is equal or by a setting, None where that is unknown.
    latents : dict of str to dict
        The same of the regenerated rows by latent space, where it is known.
    decoded : dict, optional
        Of everything that was decoded, before anything was dropped: ``rows``; the shares of them that are
        ``too_short`` (fewer than two items) or, if not, are ``copies`` of another row, of whatever kind
        or of one (``copies_of_originals``, ``copies_of_patterns``, ``copies_of_decoded``; a row may be
        several); and ``foreign_items``, the share of items that their row's source lacks.
    decoded_by_latent : dict of str to dict
        The same by latent space.
    """

    n_items: int
    origins: dict[str, Numbers]
    latents: dict[str, Numbers]
    decoded: Numbers | None
    decoded_by_latent: dict[str, Numbers]

    def to_dict(self) -> Numbers:
        """Return everything as plain data for JSON."""
        return dataclasses.asdict(self)


def regeneration_statistics(
    data: RegeneratedData,
    original: SequenceTable,
    *,
    patterns: SequenceTable | None = None,
    decoded: Decoded | None = None,
    sources: SequenceTable | None = None,
) -> RegenerationStatistics:
    """Count what a regenerated data set holds, and how much of it is new.

    Parameters
    ----------
    data : RegeneratedData
        The rows that train.
    original : SequenceTable
        Original training sequences: what is compared with, whether ``data`` holds them or not.
    patterns : SequenceTable, optional
        Mined patterns that were merged; tells how many of them were dropped.
    decoded, sources : Decoded and SequenceTable, optional
        Decoded rows that were merged, and what they were decoded from; tell how many were dropped and why.

    Raises
    ------
    ValueError
        If the vocabularies differ, or only one of ``decoded`` and ``sources`` is given.
    """
    table, known = data.table, np.unique(transitions(original))
    if original.n_items != table.n_items:
        raise ValueError(f"vocabularies of {original.n_items} and {table.n_items} items")
    if (decoded is None) != (sources is None):
        raise ValueError("decoded rows and the sequences that they were decoded from belong together")
    merged = {Origin.ORIGINAL: int((table.origin == Origin.ORIGINAL).sum())}  # no original is a duplicate
    if patterns is not None:
        merged[Origin.PATTERN] = int((patterns.lengths >= SHORTEST).sum())
    spaces, whole, by_latent = data.latent, None, {}
    if decoded is not None and sources is not None:
        # Patterns that the merge left out are missing if their table is, but each of them equals an
        # original or another pattern: ``copies`` is the same.
        kept = data.keep(["pattern"]).table if patterns is None else patterns
        marks = _marks(decoded, sources, original, kept)
        whole = _decoded_numbers(marks)
        by_latent = {str(space): _decoded_numbers(part) for space, part in marks.groupby(decoded.latent)}
        spaces = decoded.latent[~marks["too_short"]]
        merged[Origin.REGENERATED] = len(spaces)

    def numbers(chosen: NDArray[np.bool_], before: int | None) -> Numbers:
        dropped = None if before is None else before - int(chosen.sum())
        return {**_row_numbers(take_rows(table, np.flatnonzero(chosen)), known), "dropped": dropped}

    origins = {
        origin.name.lower(): numbers(table.origin == origin, merged.get(origin))
        for origin in Origin
        if (table.origin == origin).any()
    }
    latents = {
        str(space): numbers(data.latent == space, None if decoded is None else int((spaces == space).sum()))
        for space in np.unique(spaces[spaces >= 0])
    }
    return RegenerationStatistics(table.n_items - 1, origins, latents, whole, by_latent)


def _row_numbers(table: SequenceTable, known: IntArray) -> Numbers:
    """Count what some rows hold; ``known`` are the distinct transitions of the originals."""
    lengths, counts = np.unique(table.lengths, return_counts=True)
    pairs = transitions(table)
    distinct = np.unique(pairs)
    return {
        "rows": len(table),
        "interactions": len(table.items),
        "lengths": dict(zip(map(str, lengths), counts.tolist(), strict=True)),
        "coverage": _share(len(np.unique(table.items)), table.n_items - 1),
        "transitions": len(distinct),
        "new_transitions": _share((~np.isin(distinct, known)).sum(), len(distinct)),
        "new_occurrences": _share((~np.isin(pairs, known)).sum(), len(pairs)),
    }


def _marks(
    decoded: Decoded, sources: SequenceTable, original: SequenceTable, patterns: SequenceTable
) -> pd.DataFrame:
    """Mark what holds for each decoded row; the last two columns count its items."""
    rows = decoded.to_table(sources)
    codes = row_codes(concatenate([rows, original, patterns]))
    own, originals, mined = np.split(codes, [len(rows), len(rows) + len(original)])
    long_enough = rows.lengths >= SHORTEST
    copy_of = {
        "copies_of_originals": long_enough & np.isin(own, originals),
        "copies_of_patterns": long_enough & np.isin(own, mined),
        "copies_of_decoded": long_enough & pd.Series(own).duplicated(keep=False).to_numpy(),
    }
    is_foreign = ~np.isin(
        np.repeat(decoded.source, rows.lengths) * rows.n_items + rows.items,
        np.repeat(np.arange(len(sources)), sources.lengths) * sources.n_items + sources.items,
    )
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    return pd.DataFrame(
        {
            "too_short": ~long_enough,
            "copies": np.logical_or.reduce(list(copy_of.values())),
            **copy_of,
            "foreign_items": np.bincount(row[is_foreign], minlength=len(rows)),
            "items": rows.lengths,
        }
    )


def _decoded_numbers(marks: pd.DataFrame) -> Numbers:
    sums = marks.sum()
    items = sums.pop("items")
    foreign = _share(sums.pop("foreign_items"), items)
    shares = {name: _share(count, len(marks)) for name, count in sums.items()}
    return {"rows": len(marks), **shares, "foreign_items": foreign}


def transitions(table: SequenceTable) -> IntArray:
    """Adjacent pairs of items, each as ``first * n_items + second``; int64 array, shape [pairs]."""
    sequence = np.repeat(np.arange(len(table)), table.lengths)
    before, after = table.items[:-1].astype(np.int64), table.items[1:]
    return (before * table.n_items + after)[sequence[:-1] == sequence[1:]]


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
