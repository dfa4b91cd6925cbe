from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.data.table import SequenceTable
from recbole_ra.regeneration.batches import N_GROUPS, PairBatch, PairBatches, annealed
from tables import table_of


def rows_of(table: SequenceTable) -> list[tuple[int, ...]]:
    bounds = itertools.pairwise(table.offsets.tolist())
    return [tuple(table.items[a:b].tolist()) for a, b in bounds]


@st.composite
def feeds(draw: st.DrawFn) -> PairBatches:
    """Random sources, each paired with some of its sub-sequences."""
    sources = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=15), min_size=1, max_size=6))
    sequence, patterns = [], []
    for number in draw(st.lists(st.integers(0, len(sources) - 1), min_size=1, max_size=25)):
        places = draw(st.sets(st.integers(0, len(sources[number]) - 1), min_size=1, max_size=4))
        sequence.append(number)
        patterns.append([sources[number][place] for place in sorted(places)])
    return PairBatches(
        table_of(sources, 10),
        table_of(patterns, 10),
        np.array(sequence),
        np.arange(len(patterns)),
        batch_size=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 9)),
        shuffle=draw(st.booleans()),
    )


def again(feed: PairBatches, **changes: int) -> PairBatches:
    options = {"batch_size": feed.batch_size, "seed": feed.seed, **changes}
    return PairBatches(
        feed.sources, feed.patterns, feed.sequence, feed.pattern, shuffle=feed.shuffle, **options
    )


def pairs_in(batch: PairBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    found = []
    for sources, patterns in batch.groups:
        for source, pattern in zip(sources.tolist(), patterns.tolist(), strict=True):
            found.append((tuple(filter(None, source)), tuple(filter(None, pattern))))
    return found


def plain(batch: PairBatch) -> list:
    return [batch.step, [[part.tolist() for part in group] for group in batch.groups]]


@given(feeds())
def test_an_epoch_holds_every_pair_once(feed: PairBatches) -> None:
    sources, patterns = rows_of(feed.sources), rows_of(feed.patterns)
    expected = Counter((sources[s], patterns[p]) for s, p in zip(feed.sequence, feed.pattern, strict=True))
    for _ in range(2):
        batches = list(feed)
        assert Counter(pair for batch in batches for pair in pairs_in(batch)) == expected
        assert len(batches) == len(feed)
        sizes = [len(pairs_in(batch)) for batch in batches]
        assert all(size == feed.batch_size for size in sizes[:-1])
        assert 1 <= sizes[-1] <= feed.batch_size


@given(feeds())
def test_groups_are_right_padded_to_their_longest_and_ordered_by_length(feed: PairBatches) -> None:
    for batch in feed:
        assert 1 <= len(batch.groups) <= N_GROUPS
        lengths = [(sources != 0).sum(1) for sources, _ in batch.groups]
        assert torch.equal(torch.cat(lengths), torch.cat(lengths).sort().values)
        for group in batch.groups:
            for part in group:
                assert part.dtype == torch.int64
                length = (part != 0).sum(1)
                assert part.shape[1] == length.max()
                assert torch.equal(part != 0, torch.arange(part.shape[1]) < length[:, None])


@given(feeds())
def test_an_epoch_depends_on_seed_and_number_alone(feed: PairBatches) -> None:
    epochs = [[plain(batch) for batch in feed] for _ in range(3)]
    assert feed.epoch == 3
    resumed = again(feed)
    resumed.epoch = 2
    assert [plain(batch) for batch in resumed] == epochs[2]
    assert [plain(batch) for batch in again(feed)] == epochs[0]
    assert [batch[0] for epoch in epochs for batch in epoch] == list(range(3 * len(feed)))


def many() -> PairBatches:
    rows = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 1]] * 5
    return PairBatches(
        table_of(rows, 10), table_of(rows, 10), np.arange(20), np.arange(20), batch_size=8, seed=0
    )


def test_epochs_and_seeds_differ_when_shuffled() -> None:
    feed = many()
    first, second = ([pairs_in(batch) for batch in feed] for _ in range(2))
    assert first != second
    assert first != [pairs_in(batch) for batch in again(feed, seed=1)]
    feed.shuffle = False
    kept = [sorted(pairs_in(batch)) for batch in feed]
    rows = rows_of(feed.sources)
    assert kept == [sorted((row, row) for row in rows[first : first + 8]) for first in (0, 8, 16)]


def test_moving_keeps_everything() -> None:
    (batch, *_) = many()
    assert plain(batch.to("cpu")) == plain(batch)
    assert all(part.device.type == "meta" for group in batch.to("meta").groups for part in group)


def test_annealing() -> None:
    assert annealed(0) == 1
    assert annealed(1) == 0.995
    assert annealed(100) == pytest.approx(0.995**100)
    assert annealed(459) > 0.1
    assert annealed(460) == 0.1
    assert annealed(10**6) == 0.1
