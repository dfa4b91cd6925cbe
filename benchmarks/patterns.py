"""Mining and pairing on real data, each against the plain way of doing it, in turn in one run.

    python benchmarks/patterns.py --data_path=dataset --dataset=amazon-beauty --rounds=3

1. ``mine_patterns`` against seq2pat (C++, one job); the results must be equal, pattern by pattern
   and support by support.
2. ``mine_patterns`` at 1, 4 and 16 times the data.
3. ``draw_pairs`` on all sequences against a scan of all patterns for each of 200 sequences. The
   scan's time for all sequences is extrapolated, not measured.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import pairwise
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from command import start
from sequential.seq2pat import Seq2Pat

from recbole_ra.data.dataset import Splits
from recbole_ra.data.table import SequenceTable
from recbole_ra.regeneration.mining import Patterns, mine_patterns
from recbole_ra.regeneration.pairs import draw_pairs
from recbole_ra.settings.config import RaConfig

T = TypeVar("T")

WINDOW, MIN_SUPPORT, PER_SEQUENCE = 5, 2, 10
COPIES = (1, 4, 16)
SCANNED = 200


def timed(work: Callable[..., T], *given: Any, **named: Any) -> tuple[float, T]:
    """Seconds and result."""
    started = perf_counter()
    result = work(*given, **named)
    return perf_counter() - started, result


def rows_of(data: SequenceTable | Patterns) -> list[list[int]]:
    items = data.items.tolist()
    return [items[a:b] for a, b in pairwise(data.offsets.tolist())]


def mine(table: SequenceTable) -> Patterns:
    return mine_patterns(table, window=WINDOW, min_support=MIN_SUPPORT)


def by_seq2pat(sequences: list[list[int]]) -> dict[tuple[int, ...], int]:
    peer = Seq2Pat(sequences=sequences, max_span=WINDOW, n_jobs=1)
    return {tuple(found[:-1]): found[-1] for found in peer.get_patterns(min_frequency=MIN_SUPPORT)}


def copies_of(table: SequenceTable, copies: int) -> SequenceTable:
    """The table several times over, each copy with items of its own.

    Twice as many sequences over the same items would make nearly every pattern frequent, which is
    another problem and not twice the same one. Raising the support with the copies would keep the
    set of patterns, but also the number of different keys, which is the easy case. With items of
    their own, sequences, catalogue, occurrences and patterns all grow with the interactions.
    """
    shift = np.repeat(np.arange(copies), len(table.items)) * (table.n_items - 1)
    lengths = np.tile(table.lengths, copies)
    return SequenceTable.from_arrays(
        np.tile(table.items, copies) + shift,
        np.concatenate([[0], np.cumsum(lengths)]),
        copies * (table.n_items - 1) + 1,
    )


def scan(sequences: list[list[int]], patterns: list[list[int]]) -> list[tuple[int, int]]:
    """Try every pattern on every sequence."""
    found = []
    for s, sequence in enumerate(sequences):
        for p, pattern in enumerate(patterns):
            rest = iter(sequence)
            if all(item in rest for item in pattern):
                found.append((s, p))
    return found


def mining(table: SequenceTable, rounds: int) -> Patterns:
    sequences = rows_of(table)
    ratios = []
    for number in range(rounds):
        ours, patterns = timed(mine, table)
        peer, expected = timed(by_seq2pat, sequences)
        found = dict(zip(map(tuple, rows_of(patterns)), patterns.support.tolist(), strict=True))
        if len(found) != len(patterns) or found != expected:
            raise SystemExit(f"mine_patterns found {len(patterns)} patterns, seq2pat others: {len(expected)}")
        ratios.append(peer / ours)
        print(f"round {number}: seq2pat {peer:.2f} s, ours {ours:.3f} s, ratio {ratios[-1]:.1f}", flush=True)
    print(f"{len(patterns)} patterns, all equal; median ratio {statistics.median(ratios):.1f}")
    return patterns


def scaling(table: SequenceTable, n_patterns: int, rounds: int) -> None:
    seconds: dict[int, list[float]] = {copies: [] for copies in COPIES}
    for _ in range(rounds):
        for copies in COPIES:
            lasted, patterns = timed(mine, copies_of(table, copies))
            if len(patterns) != copies * n_patterns:
                raise SystemExit(f"{copies} copies gave {len(patterns)} patterns")
            seconds[copies].append(lasted)
    unit = statistics.median(seconds[1]) / len(table.items)
    for copies, spent in seconds.items():
        middle, interactions = statistics.median(spent), copies * len(table.items)
        print(
            f"{copies:2d} x: {interactions} interactions {middle:.2f} s, "
            f"{1e6 * middle / interactions:.2f} µs each, {middle / interactions / unit:.2f} of 1 x",
            flush=True,
        )


def pairing(table: SequenceTable, patterns: Patterns, rounds: int) -> None:
    sample = np.sort(np.random.default_rng(0).choice(len(table), min(SCANNED, len(table)), replace=False))
    every = rows_of(table)
    sequences, candidates = [every[s] for s in sample], rows_of(patterns)
    spent = []
    for number in range(rounds):
        seconds, pairs = timed(draw_pairs, table, patterns, per_sequence=PER_SEQUENCE, seed=number)
        spent.append(seconds)
    print(
        f"draw_pairs: {len(pairs)} pairs of {len(table)} sequences, median {statistics.median(spent):.2f} s"
    )
    seconds, expected = timed(scan, sequences, candidates)
    found = draw_pairs(table, patterns, per_sequence=len(patterns), seed=0)  # all of them
    chosen = np.isin(found.sequence, sample)
    row = np.searchsorted(sample, found.sequence[chosen])
    if list(zip(row.tolist(), found.pattern[chosen].tolist(), strict=True)) != expected:
        raise SystemExit("the scan finds other pairs than draw_pairs")
    extrapolated = seconds * len(table) / len(sample)
    print(
        f"scan: {seconds:.1f} s for {len(sample)} sequences, all pairs equal; extrapolated to all "
        f"{extrapolated:.0f} s, ratio {extrapolated / statistics.median(spent):.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    settings = {"data_path": given.data_path, "show_progress": False, "state": "ERROR"}
    whole = Splits.load(RaConfig("SASRec", given.dataset, overrides=settings)).whole.table
    table = whole.head(whole.lengths - 2)
    print(f"{given.dataset}, training part: {len(table)} sequences, {len(table.items)} interactions")
    print("\nmining")
    patterns = mining(table, given.rounds)
    print("\nmining, copies of the data")
    scaling(table, len(patterns), given.rounds)
    print("\npairs")
    pairing(table, patterns, given.rounds)


if __name__ == "__main__":
    start(main)
