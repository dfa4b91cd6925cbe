from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.data.batching import LengthGroup, SequenceBatches, TrainBatch, least_padding
from recbole_ra.data.table import Prefixes, SequenceTable


def prefixes_of(sequences: list[list[int]], max_length: int) -> Prefixes:
    return Prefixes.all_of(
        SequenceTable.from_arrays(
            np.concatenate([np.array(s, dtype=np.int64) for s in sequences]),
            np.cumsum([0, *(len(s) for s in sequences)]),
            10,
        ),
        max_length,
    )


@st.composite
def training_rows(draw: st.DrawFn) -> Prefixes:
    """Rows of random sequences, some of one item, some far longer than the longest history."""
    sequences = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=25), min_size=1, max_size=6))
    every = prefixes_of(sequences, draw(st.integers(1, 10)))
    if draw(st.booleans()):
        return every
    keep = draw(st.lists(st.booleans(), min_size=len(every), max_size=len(every)))
    return every[np.flatnonzero(keep)]


@st.composite
def feeds(
    draw: st.DrawFn, *, with_positives: bool = False, targets_per_pass: int | None = None
) -> SequenceBatches:
    return SequenceBatches(
        draw(training_rows()),
        batch_size=draw(st.integers(1, 20)),
        targets_per_pass=targets_per_pass or draw(st.integers(1, 6)),
        n_groups=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 9)),
        with_positives=with_positives,
    )


@dataclass
class Place:
    """Where the state that predicts a target stands: the items of a pass and a position among them."""

    number: tuple[int, int]
    items: list[int]
    at: int

    @property
    def seen(self) -> list[int]:
        return self.items[: self.at + 1]


def places(groups: list[LengthGroup]) -> Iterator[Place]:
    """The places of the groups' targets, in the order in which a backbone hands out the states."""
    for number, group in enumerate(groups):
        width = group.at.shape[1]
        for slot in group.slot.tolist():
            row, nth = divmod(slot, width)
            items = group.items[row, : group.lengths[row]].tolist()
            yield Place((number, row), items, int(group.at[row, nth]))


def sequence_of(prefixes: Prefixes, row: int) -> list[int]:
    s = prefixes.sequence[row]
    return prefixes.table.items[prefixes.table.offsets[s] : prefixes.table.offsets[s + 1]].tolist()


def plain(batch: TrainBatch) -> list:
    """Everything a batch holds, as lists that can be compared."""
    groups = [
        [part.tolist() for part in (group.items, group.lengths, group.at, group.slot)]
        for group in (*batch.groups, *batch.positives)
    ]
    return [groups, batch.targets.tolist(), batch.rows.tolist(), batch.positive_order.tolist()]


@given(feeds())
def test_an_epoch_holds_every_target_once(feed: SequenceBatches) -> None:
    for _ in range(2):
        batches = list(feed)
        rows = [row for batch in batches for row in batch.rows.tolist()]
        assert sorted(rows) == list(range(len(feed.prefixes)))
        assert len(batches) == (len(feed) if rows else 0)
        for batch in batches:
            assert batch.targets.tolist() == feed.prefixes[batch.rows.numpy()].targets.tolist()
            assert 1 <= len(batch.rows) < feed.batch_size + feed.targets_per_pass


@given(training_rows(), st.integers(1, 6), st.integers(1, 5))
def test_a_batch_may_count_passes(rows: Prefixes, batch_size: int, targets_per_pass: int) -> None:
    """With whole sequences in a pass, that is how many sequences are drawn for a step."""
    for most in (targets_per_pass, 1000):
        feed = SequenceBatches(
            rows, batch_size=batch_size, targets_per_pass=most, n_groups=2, seed=0, batch_of="passes"
        )
        batches = list(feed)
        passes = [sum(len(group.lengths) for group in batch.groups) for batch in batches]
        assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(len(rows)))
        assert sum(passes) == feed.n_passes
        assert len(rows) == 0 or (max(passes) <= batch_size and max(passes) - min(passes) <= 1)
        if most == 1000 and (rows.table.lengths <= rows.max_length).all():
            assert feed.n_passes == len(np.unique(rows.sequence))


def test_passes_of_some_sequences_begin_where_others_have_their_targets() -> None:
    sequences = [[1, 2, 3, 4, 5, 6], [7, 8], [8, 9], [9, 7, 8]]
    rows = prefixes_of(sequences, 7)
    floats = np.array([False, True, True, True])
    feed = SequenceBatches(
        rows, batch_size=99, targets_per_pass=9, n_groups=2, seed=0, batch_of="passes", floats=floats
    )
    seen: dict[int, set[int]] = defaultdict(set)
    for _ in range(60):
        (batch,) = feed
        for group in batch.groups:
            assert group.first is not None
            for items, length, first in zip(group.items.tolist(), group.lengths, group.first, strict=True):
                seen[items[0]].add(int(first))
                assert int(first) + int(length) <= 7
    # Targets of the original are at 1 to 5: as many items lie before them.
    assert seen == {1: {0}, 7: {1, 2, 3, 4, 5}, 8: {1, 2, 3, 4, 5}, 9: {1, 2, 3, 4, 5}}
    assert all(
        group.first is None for batch in dataclasses.replace(feed, floats=None) for group in batch.groups
    )


@given(feeds())
def test_a_target_sees_its_own_history_and_nothing_else(feed: SequenceBatches) -> None:
    p = feed.prefixes
    least = p.max_length - max(p.max_length // 2, 1) + 1
    for batch in feed:
        last: dict[tuple[int, int], int] = defaultdict(int)
        owners: dict[tuple[int, int], set[int]] = defaultdict(set)
        counted: Counter[tuple[int, int]] = Counter()
        found = list(places(batch.groups))
        assert len(found) == len(batch.rows)
        for row, place in zip(batch.rows.tolist(), found, strict=True):
            position, sequence = int(p.position[row]), sequence_of(p, row)
            assert place.items[place.at] == sequence[position - 1]
            assert place.seen == sequence[position - len(place.seen) : position]
            assert len(place.seen) >= min(position, least)
            if position <= p.max_length or feed.targets_per_pass == 1:
                assert len(place.seen) == min(position, p.max_length)
            last[place.number] = max(last[place.number], position)
            owners[place.number].add(int(p.sequence[row]))
            counted[place.number] += 1
        for row, place in zip(batch.rows.tolist(), found, strict=True):
            end = last[place.number]
            assert owners[place.number] == {p.sequence[row]}
            assert place.items == sequence_of(p, row)[max(0, end - p.max_length) : end]
            assert counted[place.number] <= feed.targets_per_pass


@given(feeds(with_positives=True), st.integers(1, 5))
def test_the_shards_of_a_step_hold_each_of_its_targets_once(feed: SequenceBatches, world: int) -> None:
    whole = list(feed)
    shards = []
    for rank in range(world):
        feed.epoch = 0
        shards.append(list(feed.shards(rank, world)))
    for batch, *parts in zip(whole, *shards, strict=True):
        held = [row for part in parts if part.share for row in part.batch.rows.tolist()]
        assert sorted(held) == sorted(batch.rows.tolist())
        for part in parts:
            assert len(part.batch.rows)
            targets = len(part.batch.rows) if part.share else 0
            assert part.share == pytest.approx(world * targets / len(batch.rows))


@given(feeds(targets_per_pass=1))
def test_one_target_a_pass_gives_prefix_rows(feed: SequenceBatches) -> None:
    for batch in feed:
        for row, place in zip(batch.rows.tolist(), places(batch.groups), strict=True):
            position = int(feed.prefixes.position[row])
            expected = sequence_of(feed.prefixes, row)[max(0, position - feed.prefixes.max_length) : position]
            assert place.items == place.seen == expected


@given(feeds())
def test_groups_hold_like_lengths_and_no_needless_padding(feed: SequenceBatches) -> None:
    for batch in feed:
        assert 1 <= len(batch.groups) <= feed.n_groups
        lengths = [length for group in batch.groups for length in group.lengths.tolist()]
        assert lengths == sorted(lengths)
        for group in batch.groups:
            assert group.items.shape[1] == group.lengths.max()
            padding = torch.arange(group.items.shape[1]) >= group.lengths[:, None]
            assert torch.equal(group.items == 0, padding)
            assert len(group.slot.unique()) == len(group.slot)
            unused = torch.ones(group.at.numel(), dtype=torch.bool)
            unused[group.slot] = False
            assert (group.at.flatten()[unused] == 0).all()
            assert (group.at < group.lengths[:, None]).all()


@given(feeds(with_positives=True))
def test_an_epoch_depends_on_seed_and_number_alone(feed: SequenceBatches) -> None:
    def again(**changes: int) -> SequenceBatches:
        options = {
            "batch_size": feed.batch_size,
            "targets_per_pass": feed.targets_per_pass,
            "n_groups": feed.n_groups,
            "seed": feed.seed,
            **changes,
        }
        return SequenceBatches(feed.prefixes, with_positives=True, **options)

    epochs = [[plain(batch) for batch in feed] for _ in range(3)]
    assert feed.epoch == 3
    resumed = again()
    resumed.epoch = 2
    assert [plain(batch) for batch in resumed] == epochs[2]
    assert [plain(batch) for batch in again()] == epochs[0]


@given(feeds())
def test_weights_go_with_their_rows(feed: SequenceBatches) -> None:
    feed.weights = np.arange(len(feed.prefixes), dtype=np.float32)
    for batch in feed:
        assert batch.weights is not None
        assert batch.weights.tolist() == batch.rows.tolist()


def test_epochs_and_seeds_differ() -> None:
    prefixes = prefixes_of([list(range(1, 10)) * 3] * 5, 8)
    options = {"batch_size": 16, "targets_per_pass": 3, "n_groups": 2}
    feed = SequenceBatches(prefixes, seed=0, **options)
    other = SequenceBatches(prefixes, seed=1, **options)
    epochs = [[plain(batch) for batch in each] for each in (feed, feed, other)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != epochs[2]


def test_batches_are_nearly_equal() -> None:
    prefixes = prefixes_of([[1 + i % 9 for i in range(12)]] * 40, 8)
    feed = SequenceBatches(prefixes, batch_size=100, targets_per_pass=4, n_groups=3, seed=0)
    sizes = [len(batch.rows) for batch in feed]
    assert len(sizes) == len(feed) == 5
    assert max(sizes) - min(sizes) <= 2 * 4


def test_passes_of_a_sequence_are_of_nearly_equal_size() -> None:
    feed = SequenceBatches(
        prefixes_of([list(range(1, 10))], 8), batch_size=99, targets_per_pass=3, n_groups=9, seed=0
    )
    (batch,) = feed
    sizes = Counter(place.number for place in places(batch.groups))
    assert sorted(sizes.values()) == [2, 3, 3]


def test_no_rows_give_no_batches() -> None:
    empty = prefixes_of([[1], [2]], 4)
    for targets in (1, 3):
        feed = SequenceBatches(empty, batch_size=4, targets_per_pass=targets, n_groups=2, seed=0)
        assert list(feed) == []


@given(feeds(with_positives=True))
def test_positives_are_other_prefixes_with_the_same_target(feed: SequenceBatches) -> None:
    p = feed.prefixes
    targets, histories = (
        p.targets,
        [sequence_of(p, row)[: p.position[row]][-p.max_length :] for row in range(len(p))],
    )
    for batch in feed:
        found = list(places(batch.positives))
        assert sorted(batch.positive_order.tolist()) == list(range(len(batch.rows)))
        for row, order in zip(batch.rows.tolist(), batch.positive_order.tolist(), strict=True):
            others = [r for r in np.flatnonzero(targets == targets[row]) if r != row] or [row]
            assert found[order].items == found[order].seen
            assert found[order].seen in [histories[r] for r in others]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_groups_have_the_least_padding(lengths: list[int], n_groups: int) -> None:
    rising = np.sort(lengths)

    def places(edges: list[int]) -> int:
        return sum((b - a) * int(rising[b - 1]) for a, b in itertools.pairwise(edges))

    edges = least_padding(rising, n_groups).tolist()
    assert edges[0] == 0
    assert edges[-1] == len(rising)
    assert len(edges) - 1 <= n_groups
    assert all(a < b for a, b in itertools.pairwise(edges))
    inner = range(1, len(rising))
    best = min(
        places([0, *cuts, len(rising)])
        for count in range(min(n_groups, len(rising)))
        for cuts in itertools.combinations(inner, count)
    )
    assert places(edges) == best
