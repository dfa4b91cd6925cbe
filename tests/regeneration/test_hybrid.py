from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
from recbole_ra.regeneration import hybrid
from recbole_ra.regeneration.hybrid import decode
from recbole_ra.regeneration.network import Regenerator

N_ITEMS = 12
STEPS = 7


def regenerator(seed: int = 0, **options: Any) -> Regenerator:
    torch.manual_seed(seed)
    small = {"width": 8, "n_heads": 2, "inner": 16, "n_latents": 3, "max_source": 12, "max_target": 8}
    return Regenerator(**{"n_items": N_ITEMS, "initializer_range": 0.5, **small, **options}).double()


def padded(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def lists(tokens: Tensor) -> list[list[list[int]]]:
    """The tokens of each source and space; nothing may follow the first 0."""
    found = []
    for source in tokens.tolist():
        rows = [[token for token in row if token] for row in source]
        assert all(row[: len(kept)] == kept for row, kept in zip(source, rows, strict=True))
        found.append(rows)
    return found


some_sources = st.lists(st.lists(st.integers(1, N_ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=6)


@settings(max_examples=25)
@given(some_sources, st.integers(0, 7), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.booleans())
def test_equals_one_sequence_in_one_space_without_a_cache(
    sources: list[list[int]], seed: int, gamma: float, diversity: bool
) -> None:
    model = regenerator(seed, diversity=diversity)
    coins = np.random.default_rng(seed).random((len(sources), model.n_latents, STEPS)) < gamma
    found = lists(decode(model, padded(sources), torch.from_numpy(coins)))
    model.eval()
    for source, rows, flips in zip(sources, found, coins, strict=True):
        expected = [reference.decode_one(model, source, p, flip) for p, flip in enumerate(flips.tolist())]
        assert rows == expected


@given(some_sources, st.integers(0, 7), st.integers(0, 10**6))
def test_no_item_twice_and_restrictive_steps_stay_in_the_source(
    sources: list[list[int]], seed: int, draw: int
) -> None:
    model = regenerator(seed)
    coins = torch.from_numpy(np.random.default_rng(draw).random((len(sources), 3, STEPS)) < 0.5)
    for source, rows, flips in zip(sources, lists(decode(model, padded(sources), coins)), coins, strict=True):
        for row, generative in zip(rows, flips.tolist(), strict=True):
            assert len(set(row)) == len(row)
            assert all(1 <= item < N_ITEMS for item in row)
            assert all(free or item in source for item, free in zip(row, generative, strict=False))


def never_ending(model: Regenerator) -> Regenerator:
    """Give the end symbol the lowest score, whatever the state: LayerNorm's bias sees to it."""
    with torch.no_grad():
        model.decoder.feed_forwards[-1].norm.bias.fill_(3)
        model.item_table[model.end] = -50
    return model


def test_rows_end_when_nothing_is_left() -> None:
    model = never_ending(regenerator())
    restrictive = torch.zeros(2, 3, STEPS, dtype=torch.bool)
    found = lists(decode(model, padded([[4, 4, 2], [9]]), restrictive))
    assert [[sorted(row) for row in rows] for rows in found] == [[[2, 4]] * 3, [[9]] * 3]


def test_rows_stop_at_the_last_step() -> None:
    model = never_ending(regenerator())
    found = lists(decode(model, padded([[1, 2]]), torch.ones(1, 3, STEPS, dtype=torch.bool)))
    assert [len(row) for row in found[0]] == [STEPS] * 3


def test_of_equal_scores_the_lowest_id_wins_and_the_end_comes_last() -> None:
    model = regenerator()
    with torch.no_grad():
        model.item_table[:] = 0  # all scores are 0
    sources = padded([[7, 3, 5], [2, 2, 1]])
    found = lists(decode(model, sources, torch.zeros(2, 3, STEPS, dtype=torch.bool)))
    assert found == [[[3, 5, 7]] * 3, [[1, 2]] * 3]
    found = lists(decode(model, sources, torch.ones(2, 3, STEPS, dtype=torch.bool)))
    assert found == [[list(range(1, STEPS + 1))] * 3] * 2


def test_small_chunks_of_the_catalogue_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sources = regenerator(), padded([[1 + (row + i) % 11 for i in range(5)] for row in range(20)])
    coins = torch.from_numpy(np.random.default_rng(0).random((20, 3, STEPS)) < 0.8)
    whole = decode(model, sources, coins)
    monkeypatch.setattr(hybrid, "CPU_CHUNK_ELEMENTS", 1)
    assert torch.equal(decode(model, sources, coins), whole)


def test_the_mode_of_the_model_is_left_as_it_was() -> None:
    model, coins = regenerator(), torch.zeros(1, 3, 2, dtype=torch.bool)
    for mode in (True, False):
        model.train(mode)
        decode(model, padded([[1, 2]]), coins)
        assert model.training == mode
        assert model.encoder.training == mode


@pytest.mark.parametrize("diversity", [True, False])
def test_learns_to_write_every_second_item(diversity: bool) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sources = torch.from_numpy(np.stack([1 + rng.permutation(20)[:6] for _ in range(16)]))
    model = Regenerator(
        n_items=21,
        max_source=6,
        width=16,
        n_layers=1,
        inner=32,
        dropout=0.0,
        n_latents=2,
        diversity=diversity,
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(120):
        optimiser.zero_grad()
        model.loss([(sources, sources[:, ::2])], tau=max(0.1, 0.98**step)).total.backward()
        optimiser.step()
    found = decode(model, sources, torch.zeros(16, model.n_latents, 5, dtype=torch.bool))
    expected = torch.nn.functional.pad(sources[:, ::2], (0, 2))
    right = (found == expected[:, None]).all(-1).any(1)  # in the space that the pattern was put into
    assert right.all()
