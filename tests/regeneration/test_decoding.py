from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
from recbole_ra.core.errors import CheckpointError
from recbole_ra.data.table import Origin, SequenceTable
from recbole_ra.regeneration import decoding
from recbole_ra.regeneration.decoding import Decoded, decode, draw_coins, regenerate_sequences
from recbole_ra.regeneration.network import Regenerator

N_ITEMS = 12
N_LATENTS = 3
STEPS = 7


def regenerator(seed: int = 0, **options: Any) -> Regenerator:
    torch.manual_seed(seed)
    small = {"width": 8, "inner": 16, "n_latents": N_LATENTS, "max_source": 10, "max_target": 8}
    return Regenerator(**{"n_items": N_ITEMS, "initializer_range": 0.5, **small, **options}).double()


def sources(n: int = 25) -> SequenceTable:
    """Rows of 0 to 9 items."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 10, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return SequenceTable.from_arrays(
        rng.integers(1, N_ITEMS, offsets[-1]), offsets, N_ITEMS, users=100 + np.arange(n)
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BLOCK", 8)


def run(model: Regenerator | None = None, table: SequenceTable | None = None, **options: Any) -> Decoded:
    return regenerate_sequences(
        model or regenerator(),
        sources() if table is None else table,
        **{"max_tokens": 6, "seed": 1, **options},
    )


def rows_of(decoded: Decoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(decoded.items, decoded.offsets[1:-1])]


def assert_same(one: Decoded, other: Decoded) -> None:
    for name in ("items", "offsets", "source", "latent"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_rows_are_ordered_by_source_then_space() -> None:
    decoded = run()
    assert len(decoded) == 25 * N_LATENTS
    assert decoded.items.dtype == np.int32
    assert list(zip(decoded.source, decoded.latent, strict=True)) == [
        (s, p) for s in range(25) for p in range(N_LATENTS)
    ]
    assert decoded.offsets[-1] == len(decoded.items)
    assert all(1 <= item < N_ITEMS for item in decoded.items)


def test_each_row_is_what_one_batch_gives() -> None:
    model, table = regenerator(), sources()
    found = rows_of(run(model, table))
    for s in range(len(table)):
        items = table.items[table.offsets[s] : table.offsets[s + 1]].astype(np.int64)
        if not len(items):
            assert found[s * N_LATENTS : (s + 1) * N_LATENTS] == [[]] * N_LATENTS
            continue
        coins = draw_coins(1, s // 8, (8, N_LATENTS, 6), 0.5)[s % 8]
        tokens = decode(model, torch.from_numpy(items)[None], torch.from_numpy(coins)[None])[0]
        expected = [[token for token in row if token] for row in tokens.tolist()]
        assert found[s * N_LATENTS : (s + 1) * N_LATENTS] == expected


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    assert_same(run(batch_size=batch_size), run(batch_size=7))


def test_restrictive_steps_only() -> None:
    table = sources()
    decoded = run(table=table, gamma=0)
    assert len(decoded.items)
    for row, source in zip(rows_of(decoded), decoded.source, strict=True):
        assert set(row) <= set(table.items[table.offsets[source] : table.offsets[source + 1]].tolist())


def test_gamma_and_seed_and_weights_matter() -> None:
    base = rows_of(run())
    assert rows_of(run(gamma=1.0)) != base
    assert rows_of(run(seed=2)) != base
    assert rows_of(run(regenerator(1))) != base


def test_released_behaviour_is_two_restrictive_steps_then_generative_ones() -> None:
    coins = draw_coins(1, 0, (4, 2, 5), 0.5, "released")
    assert coins.tolist() == [[[False, False, True, True, True]] * 2] * 4
    table = sources()
    decoded = run(table=table, variant="released")
    outside = 0
    for row, source in zip(rows_of(decoded), decoded.source, strict=True):
        own = set(table.items[table.offsets[source] : table.offsets[source + 1]].tolist())
        assert set(row[:2]) <= own
        outside += len(set(row[2:]) - own)
    assert outside > 0
    assert_same(run(variant="released", gamma=0.1), run(variant="released", gamma=0.9))


def test_coins_do_not_depend_on_how_many_sources_follow() -> None:
    whole = draw_coins(1, 3, (8, 2, 5), 0.5)
    np.testing.assert_array_equal(draw_coins(1, 3, (5, 2, 5), 0.5), whole[:5])
    assert (draw_coins(1, 4, (8, 2, 5), 0.5) != whole).any()
    assert not draw_coins(1, 0, (50, 2, 5), 0.0).any()
    assert draw_coins(1, 0, (50, 2, 5), 1.0).all()
    assert draw_coins(1, 0, (500, 5, 25), 0.3).mean() == pytest.approx(0.3, abs=0.01)


class Interrupted(Exception):
    pass


def test_an_interrupted_call_continues_and_ends_with_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    inner = decoding.decode

    def stops(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 5:
            raise Interrupted
        return inner(*arguments)

    monkeypatch.setattr(decoding, "decode", stops)
    with pytest.raises(Interrupted):
        run(folder=tmp_path, batch_size=3)
    finished = sorted(path.name for path in tmp_path.iterdir())
    assert len(finished) == 1
    assert finished[0].startswith("block-000000-")
    before = (tmp_path / finished[0]).stat().st_mtime_ns
    continued = run(folder=tmp_path, batch_size=3)
    assert (tmp_path / finished[0]).stat().st_mtime_ns == before
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "BLOCK", 8)
    assert_same(continued, run(batch_size=3))
    assert len(list(tmp_path.iterdir())) == 4


def test_finished_blocks_are_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(folder=tmp_path)
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(decoding, "decode", None)  # calling it would fail
    assert_same(run(folder=tmp_path), first)
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "BLOCK", 8)
    next(tmp_path.glob("block-000001-*.npz")).unlink()
    assert_same(run(folder=tmp_path), first)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content


@pytest.mark.parametrize(
    "changes",
    [{"gamma": 0.9}, {"seed": 2}, {"max_tokens": 5}, {"variant": "released"}, {"model": regenerator(1)}],
)
def test_blocks_of_other_arguments_are_made_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    before = run(folder=tmp_path)
    other = run(folder=tmp_path, **changes)
    assert_same(other, run(**changes))
    assert rows_of(other) != rows_of(before)


def test_blocks_of_other_sources_are_made_again(tmp_path: Path) -> None:
    table = sources()
    run(folder=tmp_path, table=table)
    mirrored = SequenceTable.from_arrays(N_ITEMS - table.items, table.offsets, N_ITEMS)
    assert_same(run(folder=tmp_path, table=mirrored), run(table=mirrored))


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_damaged_blocks_are_made_again(tmp_path: Path, kept: int) -> None:
    expected = run(folder=tmp_path)
    block = next(tmp_path.glob("block-000002-*.npz"))
    block.write_bytes(block.read_bytes()[:kept])
    assert_same(run(folder=tmp_path), expected)


def test_nothing_to_decode() -> None:
    none = SequenceTable.from_arrays(np.zeros(0), np.zeros(1), N_ITEMS)
    assert len(run(table=none)) == 0
    empty = SequenceTable.from_arrays(np.zeros(0), np.zeros(4), N_ITEMS)
    assert rows_of(run(table=empty)) == [[]] * 3 * N_LATENTS


def test_saved_and_loaded(tmp_path: Path) -> None:
    decoded = run()
    decoded.save(tmp_path)
    assert_same(Decoded.load(tmp_path), decoded)
    (tmp_path / "decoded.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CheckpointError, match=r"decoded\.npz: missing or damaged"):
        Decoded.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"decoded\.npz: missing or damaged"):
        Decoded.load(tmp_path / "elsewhere")


def test_as_a_table() -> None:
    table, decoded = sources(), run()
    made = decoded.to_table(table)
    np.testing.assert_array_equal(made.users, np.repeat(100 + np.arange(25), N_LATENTS))
    np.testing.assert_array_equal(made.lengths, [len(row) for row in rows_of(decoded)])
    assert set(made.origin.tolist()) == {Origin.REGENERATED}
    assert made.n_items == N_ITEMS


def test_sources_longer_than_the_position_table() -> None:
    long = SequenceTable.from_arrays(np.ones(11), np.array([0, 11]), N_ITEMS)
    with pytest.raises(ValueError, match="11 tokens in a row, but the model has 10 positions"):
        run(table=long)


def test_a_bar_appears_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    run(progress=True)
    run(progress=False)
    assert capfd.readouterr() == ("", "")


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
    monkeypatch.setattr(decoding, "CPU_CHUNK_ELEMENTS", 1)
    assert torch.equal(decode(model, sources, coins), whole)


def test_decoding_is_without_dropout() -> None:
    model, coins = regenerator(), torch.zeros(1, 3, 5, dtype=torch.bool)
    expected = decode(model.eval(), padded([[1, 2, 3, 4, 5]]), coins)
    assert torch.equal(decode(model.train(), padded([[1, 2, 3, 4, 5]]), coins), expected)


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
        loss = model.loss([(sources, sources[:, ::2])], tau=max(0.1, 0.98**step))
        (loss.reconstruction / loss.n_tokens + loss.entropy / loss.n_rows).backward()
        optimiser.step()
    found = decode(model, sources, torch.zeros(16, model.n_latents, 5, dtype=torch.bool))
    expected = torch.nn.functional.pad(sources[:, ::2], (0, 2))
    right = (found == expected[:, None]).all(-1).any(1)  # in the space that the pattern was put into
    assert right.all()
