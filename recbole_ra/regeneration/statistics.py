"""Numbers for looking at a regenerated data set against the original one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_ra.data.table import IntArray, Origin, SequenceTable
from recbole_ra.regeneration.merge import SHORTEST, RegeneratedData, concatenate, row_codes, take_rows

if TYPE_CHECKING:  # counting needs no torch
    from recbole_ra.regeneration.decoding import Decoded


@dataclass(frozen=True)
class RowStatistics:
    """What some rows of a regenerated data set hold: those of one origin, or of one latent space.

    Attributes
    ----------
    rows, interactions : int
    lengths : dict of int to int
        Number of rows of each length that occurs, shortest first.
    coverage : float
        Share of the vocabulary that occurs.
    transitions : int
        Distinct pairs of adjacent items.
    new_transitions : float
        Share of them that are adjacent, in this order, in no original row.
    new_occurrences : float
        The same share with every occurrence counted.
    dropped : int, optional
        Rows that were left out because an earlier one is equal, where that is known.
    """

    rows: int
    interactions: int
    lengths: dict[int, int]
    coverage: float
    transitions: int
    new_transitions: float
    new_occurrences: float
    dropped: int | None

    @property
    def mean_length(self) -> float:
        """Items a row."""
        return _share(self.interactions, self.rows)


@dataclass(frozen=True)
class DecodedStatistics:
    """What the regenerator produced, before anything was dropped. All shares but the last are of rows.

    Attributes
    ----------
    rows : int
    too_short : float
        Rows of fewer than two items.
    copies : float
        Longer rows that equal an original, a pattern or another decoded row.
    copies_of_originals, copies_of_patterns, copies_of_decoded : float
        Those that equal one of the kind; a row may be several.
    foreign_items : float
        Share of the items that are not in the sequence that their row was decoded from.
    """

    rows: int
    too_short: float
    copies: float
    copies_of_originals: float
    copies_of_patterns: float
    copies_of_decoded: float
    foreign_items: float


@dataclass(frozen=True)
class RegenerationStatistics:
    """A regenerated data set in numbers.

    Attributes
    ----------
    n_items : int
        Items of the vocabulary, without padding.
    origins : dict of str to RowStatistics
        By name of the origin, ``"original"`` first; only origins that occur.
    latents : dict of int to RowStatistics
        Regenerated rows by latent space, where it is known.
    decoded : DecodedStatistics, optional
        Of everything that was decoded.
    decoded_by_latent : dict of int to DecodedStatistics
    """

    n_items: int
    origins: dict[str, RowStatistics]
    latents: dict[int, RowStatistics]
    decoded: DecodedStatistics | None
    decoded_by_latent: dict[int, DecodedStatistics]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON: all keys are text."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


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
        All rows that :func:`~recbole_ra.regeneration.merge.merge` kept, or that were read from a file.
    original : SequenceTable
        Original training sequences: what is compared with, whether ``data`` holds them or not.
    patterns : SequenceTable, optional
        Mined patterns that were merged; tells how many of them were dropped.
    decoded : Decoded, optional
        Decoded rows that were merged; tells how many of them were dropped and why.
    sources : SequenceTable, optional
        What ``decoded`` was decoded from.

    Returns
    -------
    RegenerationStatistics

    Raises
    ------
    ValueError
        If the vocabularies differ, or only one of ``decoded`` and ``sources`` is given.
    """
    if original.n_items != data.table.n_items:
        raise ValueError(f"vocabularies of {original.n_items} and {data.table.n_items} items")
    if (decoded is None) != (sources is None):
        raise ValueError("decoded rows and the sequences that they were decoded from belong together")
    table, known = data.table, _distinct(transitions(original))
    merged = {Origin.ORIGINAL: int((table.origin == Origin.ORIGINAL).sum())}  # no original is a duplicate
    if patterns is not None:
        merged[Origin.PATTERN] = int((patterns.lengths >= SHORTEST).sum())
    spaces, whole, by_latent = data.latent, None, {}
    if decoded is not None and sources is not None:
        rows = decoded.to_table(sources)
        spaces = decoded.latent[rows.lengths >= SHORTEST]
        merged[Origin.REGENERATED] = len(spaces)
        marks = _Marks.of(rows, original, data, patterns, sources, decoded.source)
        whole = marks.summary(np.ones(len(rows), dtype=bool))
        for space in _distinct(decoded.latent).tolist():
            by_latent[space] = marks.summary(decoded.latent == space)

    def count(chosen: NDArray[np.bool_], before: int | None) -> RowStatistics:
        dropped = None if before is None else before - int(chosen.sum())
        return _row_statistics(take_rows(table, np.flatnonzero(chosen)), known, dropped)

    origins = {
        origin.name.lower(): count(table.origin == origin, merged.get(origin))
        for origin in Origin
        if (table.origin == origin).any()
    }
    latents = {
        space: count(data.latent == space, None if decoded is None else int((spaces == space).sum()))
        for space in _distinct(spaces[spaces >= 0]).tolist()
    }
    return RegenerationStatistics(table.n_items - 1, origins, latents, whole, by_latent)


def _row_statistics(table: SequenceTable, known: IntArray, dropped: int | None) -> RowStatistics:
    counts = np.bincount(table.lengths)
    pairs = transitions(table)
    distinct = _distinct(pairs)
    return RowStatistics(
        rows=len(table),
        interactions=len(table.items),
        lengths={length: int(counts[length]) for length in np.flatnonzero(counts).tolist()},
        coverage=_share(len(_distinct(table.items)), table.n_items - 1),
        transitions=len(distinct),
        new_transitions=_share((~np.isin(distinct, known)).sum(), len(distinct)),
        new_occurrences=_share((~np.isin(pairs, known)).sum(), len(pairs)),
        dropped=dropped,
    )


@dataclass(frozen=True)
class _Marks:
    """What is so of each decoded row; bool or int64 arrays of shape [decoded rows]."""

    length: IntArray
    copy_of: dict[str, NDArray[np.bool_]]
    foreign: IntArray

    @classmethod
    def of(
        cls,
        rows: SequenceTable,
        original: SequenceTable,
        data: RegeneratedData,
        patterns: SequenceTable | None,
        sources: SequenceTable,
        source: IntArray,
    ) -> _Marks:
        if patterns is None:
            # A pattern that the merge left out equals an original or another pattern, so none is missed
            # among all copies; copies of patterns alone then are of those that were kept.
            patterns = data.keep([Origin.PATTERN]).table
        codes = row_codes(concatenate([rows, original, patterns]))
        own, others = codes[: len(rows)], codes[len(rows) :]
        trains = rows.lengths >= SHORTEST
        number = np.bincount(own, minlength=int(codes.max(initial=-1)) + 1)
        foreign = ~np.isin(
            np.repeat(source, rows.lengths) * rows.n_items + rows.items,
            np.repeat(np.arange(len(sources)), sources.lengths) * sources.n_items + sources.items,
        )
        total = np.concatenate([[0], np.cumsum(foreign)])
        return cls(
            length=rows.lengths,
            copy_of={
                "originals": trains & np.isin(own, others[: len(original)]),
                "patterns": trains & np.isin(own, others[len(original) :]),
                "decoded": trains & (number[own] > 1),
            },
            foreign=total[rows.offsets[1:]] - total[rows.offsets[:-1]],
        )

    def summary(self, chosen: NDArray[np.bool_]) -> DecodedStatistics:
        """Shares among the chosen rows."""
        rows = int(chosen.sum())
        any_copy = np.logical_or.reduce(list(self.copy_of.values()))
        return DecodedStatistics(
            rows=rows,
            too_short=_share((chosen & (self.length < SHORTEST)).sum(), rows),
            copies=_share((chosen & any_copy).sum(), rows),
            **{
                f"copies_of_{kind}": _share((chosen & mark).sum(), rows)
                for kind, mark in self.copy_of.items()
            },
            foreign_items=_share(self.foreign[chosen].sum(), self.length[chosen].sum()),
        )


def transitions(table: SequenceTable) -> IntArray:
    """Adjacent pairs of items, each as ``first * n_items + second``.

    Returns
    -------
    int64 array, shape [interactions - sequences that are not empty]
    """
    inside = np.ones(max(len(table.items) - 1, 0), dtype=bool)
    ends = table.offsets[1:-1] - 1
    inside[ends[(ends >= 0) & (ends < len(inside))]] = False
    before, after = table.items[:-1].astype(np.int64), table.items[1:]
    return (before * table.n_items + after)[inside]


def _distinct(values: NDArray[Any]) -> IntArray:
    found: IntArray = np.unique(values).astype(np.int64)
    return found


def _share(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else 0.0
