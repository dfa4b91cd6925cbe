from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra.core.errors import CheckpointError, SettingsError
from recbole_ra.data.table import Origin, SequenceTable
from recbole_ra.regeneration import decoding
from recbole_ra.regeneration.decoding import Decoded, draw_coins, regenerate_sequences
from recbole_ra.regeneration.network import Regenerator

N_ITEMS = 12
N_LATENTS = 3


def regenerator(seed: int = 0) -> Regenerator:
    torch.manual_seed(seed)
    return Regenerator(
        n_items=N_ITEMS,
        max_source=10,
        max_target=8,
        width=8,
        inner=16,
        n_latents=N_LATENTS,
        initializer_range=0.5,
    ).double()


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
        coins = draw_coins(1, s // 8, 8, N_LATENTS, 6, 0.5)[s % 8]
        tokens = decoding.decode(model, torch.from_numpy(items)[None], torch.from_numpy(coins)[None])[0]
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
    coins = draw_coins(1, 0, 4, 2, 5, 0.5, "released")
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
    whole = draw_coins(1, 3, 8, 2, 5, 0.5)
    np.testing.assert_array_equal(draw_coins(1, 3, 5, 2, 5, 0.5), whole[:5])
    assert (draw_coins(1, 4, 8, 2, 5, 0.5) != whole).any()
    assert not draw_coins(1, 0, 50, 2, 5, 0.0).any()
    assert draw_coins(1, 0, 50, 2, 5, 1.0).all()
    assert draw_coins(1, 0, 500, 5, 25, 0.3).mean() == pytest.approx(0.3, abs=0.01)


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
    assert finished == ["block-000000.npz"]
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
    (tmp_path / "block-000001.npz").unlink()
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
    block = tmp_path / "block-000002.npz"
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -0.1}, r"gamma=-0\.1"),
        ({"gamma": 1.5}, r"gamma=1\.5"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"variant": "dice"}, "variant='dice'.*paper, released"),
        ({"max_tokens": 0}, "max_tokens=0.*1..8"),
        ({"max_tokens": 9}, "max_tokens=9.*1..8"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        run(**options)


def test_sources_longer_than_the_position_table() -> None:
    long = SequenceTable.from_arrays(np.ones(11), np.array([0, 11]), N_ITEMS)
    with pytest.raises(ValueError, match="11 items, but the model has 10 positions"):
        run(table=long)


def test_a_bar_appears_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    run(progress=True)
    run(progress=False)
    assert capfd.readouterr() == ("", "")
