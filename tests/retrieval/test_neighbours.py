from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from recbole_ra.core.errors import DataError, SettingsError
from recbole_ra.retrieval import neighbours
from recbole_ra.retrieval.index import KINDS
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.neighbours import Neighbours, Queries, find_neighbours, random_neighbours

SCOPES = ("any", "past")


class World:
    """Users with every prefix of theirs as memory and as query, and some patterns."""

    def __init__(
        self, lengths: list[int], n_patterns: int, seed: int, *, coarse: bool, width: int = 3
    ) -> None:
        rng = np.random.default_rng(seed)
        users = np.repeat(np.arange(len(lengths)), lengths)
        position = np.concatenate([np.arange(1, n + 1) for n in lengths])
        # Few distinct vectors and times make ties; a coarse grid also yields zero vectors.
        draw = (
            rng.integers(-1, 2, (len(users) + n_patterns, width))
            if coarse
            else rng.normal(size=(len(users) + n_patterns, width))
        )
        self.keys = draw.astype(np.float32)
        self.users = np.concatenate([users, np.full(n_patterns, -1)])
        self.lengths = np.concatenate([position, rng.integers(1, 5, n_patterns)])
        times = np.concatenate([position + rng.integers(0, 3, len(users)), np.full(n_patterns, np.nan)])
        self.times = times.astype(np.float64)
        self.recent = np.zeros((len(times), 1), np.int32)
        self.values = rng.integers(1, 9, len(self.users))

    def bank(self, kind: str = "Flat") -> MemoryBank:
        return MemoryBank.build(
            self.keys, self.values, self.users, self.lengths, self.times, self.recent, index_kind=kind, seed=0
        )

    @property
    def about(self) -> list[tuple]:
        return list(zip(self.users.tolist(), self.lengths.tolist(), self.times.tolist(), strict=True))

    def find(self, kind: str, k: int, scope: str) -> Neighbours:
        queries = Queries(self.users, self.lengths, self.times)
        return find_neighbours(self.bank(kind), self.keys, queries, k=k, scope=scope)


worlds = st.builds(
    World,
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    n_patterns=st.integers(0, 4),
    seed=st.integers(0, 999),
    coarse=st.booleans(),
)


def assert_well_formed(world: World, found: Neighbours, k: int, scope: str) -> None:
    assert found.ids.shape == found.valid.shape == found.scores.shape == (len(world.users), k)
    assert (found.ids.dtype, found.valid.dtype, found.scores.dtype) == (np.int64, np.bool_, np.float32)
    assert (found.ids[~found.valid] == 0).all()
    assert (found.scores[~found.valid] == 0).all()
    assert (found.valid[:, :-1] >= found.valid[:, 1:]).all(), "valid places come first"
    both = found.valid[:, :-1] & found.valid[:, 1:]
    assert (np.diff(found.scores, axis=1)[both] <= 0).all(), "best first"
    for query, (ids, valid) in enumerate(zip(found.ids, found.valid, strict=True)):
        kept = ids[valid].tolist()
        assert len(set(kept)) == len(kept)
        for memory in kept:
            assert reference.may_use(world.about[query], world.about[memory], scope)
            own_future = world.users[memory] == world.users[query] != -1
            assert not (own_future and world.lengths[memory] >= world.lengths[query])


@pytest.mark.parametrize("kind", ["Flat", "Torch"])
@pytest.mark.parametrize("margin", [0, 12])
@pytest.mark.parametrize("earliest", [0, 4, 2048])
@given(world=worlds, k=st.integers(1, 8), scope=st.sampled_from(SCOPES), block=st.integers(1, 9))
def test_exact_search_equals_brute_force(
    kind: str, margin: int, earliest: int, world: World, k: int, scope: str, block: int
) -> None:
    k = min(k, len(world.users))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_MARGIN", margin)
        patch.setattr(neighbours, "_EARLIEST", earliest)
        patch.setattr(neighbours, "_CELLS", 40)
        patch.setattr(neighbours, "_BLOCK", block)
        found = world.find(kind, k, scope)
    assert_well_formed(world, found, k, scope)
    expected = reference.nearest_memories(world.keys, world.about, world.keys, world.about, k, scope)
    for row, best in enumerate(expected):
        assert found.valid[row].sum() == len(best)
        np.testing.assert_allclose(found.scores[row, : len(best)], [score for score, _ in best], atol=1e-5)


@pytest.mark.parametrize("kind", ["IVFFlat", "HNSW"])
@pytest.mark.parametrize("scope", SCOPES)
def test_approximate_search_leaks_nothing_and_finds_most(kind: str, scope: str) -> None:
    world = World([12] * 60, 40, 0, coarse=False, width=8)
    found, exact = world.find(kind, 5, scope), world.find("Flat", 5, scope)
    assert_well_formed(world, found, 5, scope)
    same = [
        len(np.intersect1d(a[m], b[n]))
        for a, m, b, n in zip(found.ids, found.valid, exact.ids, exact.valid, strict=True)
    ]
    assert sum(same) > 0.8 * exact.valid.sum()


def test_places_that_the_index_leaves_empty_are_not_valid() -> None:
    world = World([12] * 20, 10, 3, coarse=False)
    bank = MemoryBank.build(
        world.keys,
        world.values,
        world.users,
        world.lengths,
        world.times,
        world.recent,
        index_kind="IVFFlat",
        nlist=25,
        nprobe=1,
        seed=0,
    )
    assert (bank.index.search(world.keys, 60)[1] == -1).any(), "one list holds fewer"
    found = find_neighbours(bank, world.keys, Queries(world.users, world.lengths), k=60, scope="any")
    assert_well_formed(world, found, 60, "any")
    assert np.isfinite(found.scores).all()
    assert (found.ids >= 0).all()
    assert not found.valid.all()


def test_the_query_itself_and_its_future_are_not_found() -> None:
    world = World([3, 1], 0, 0, coarse=False)
    world.keys[:] = [[1, 0, 0], [1, 0.1, 0], [1, 0.2, 0], [0, 0, 1]]
    found = world.find("Flat", 3, "any")
    by_row = [row[valid].tolist() for row, valid in zip(found.ids, found.valid, strict=True)]
    assert by_row == [[3], [0, 3], [1, 0, 3], [2, 1, 0]]


def test_a_query_without_eligible_memories_has_none() -> None:
    world = World([4], 0, 0, coarse=False)
    found = world.find("Flat", 2, "any")
    assert found.valid.sum(axis=1).tolist() == [0, 1, 2, 2]


def test_unknown_times_under_past() -> None:
    world = World([4, 4], 5, 0, coarse=False)
    world.times[:] = np.nan
    assert not world.find("Flat", 2, "past").valid.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_owner_may_be_many_times_longer_than_the_margin(kind: str) -> None:
    world = World([150, 30], 0, 1, coarse=False)
    found = world.find(kind, 10, "any")
    first = np.flatnonzero(world.lengths == 1)[0]
    assert set(world.users[found.ids[first][found.valid[first]]].tolist()) <= {1}
    if kind in ("Flat", "Torch"):
        assert found.valid[first].all()


@pytest.mark.parametrize("scope", SCOPES)
def test_blocks_do_not_show(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([9, 9, 9], 3, 2, coarse=False)
    whole = world.find("Flat", 4, scope)
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    np.testing.assert_array_equal(whole.ids, world.find("Flat", 4, scope).ids)


def test_no_queries() -> None:
    world = World([5], 0, 0, coarse=False)
    nothing = np.empty(0, dtype=np.int64)
    found = find_neighbours(world.bank(), world.keys[:0], Queries(nothing, nothing), k=3, scope="any")
    assert found.ids.shape == (0, 3)


@pytest.mark.parametrize("scope", ["any", "past"])
@pytest.mark.parametrize("find", [find_neighbours, random_neighbours])
def test_a_bank_may_hold_fewer_memories_than_are_asked_for(find: Any, scope: str) -> None:
    """As users are forgotten; even none."""
    world = World([5], 0, 0, coarse=False)
    asked = Queries(np.full(5, 99), world.lengths, np.full(5, 1e9))
    bank = world.bank()
    for left in (5, 0):
        found = find(bank, world.keys, asked, k=6, scope=scope)
        assert found.ids.shape == (5, 6)
        assert (found.valid.sum(1) == left).all() or find is random_neighbours
        assert found.valid.any() == bool(left)
        bank.remove_owner(int(bank.users[0]) if left else 0)


def test_faults_are_named() -> None:
    world = World([5], 0, 0, coarse=False)
    with pytest.raises(SettingsError, match="memory_scope"):
        world.find("Flat", 1, "future")
    with pytest.raises(DataError, match="memory_scope=past"):
        find_neighbours(
            world.bank(),
            world.keys,
            Queries(world.users, world.lengths),
            k=1,
            scope="past",
        )
