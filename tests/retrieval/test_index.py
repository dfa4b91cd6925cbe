from __future__ import annotations

import errno
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_ra.core.errors import CheckpointError, DataError, SettingsError
from recbole_ra.core.files import write_arrays
from recbole_ra.retrieval.index import KINDS, Index, TorchFlatIP, automatic_nprobe, normalise

EXACT = ("Flat", "Torch")


def vectors(rows: int, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_match_of_a_stored_vector_is_itself_at_any_scale(kind: str) -> None:
    keys = vectors(500)
    index = Index(kind, 8, seed=0)
    index.add(keys * 7)
    assert len(index) == 500
    scores, ids = index.search(keys * 0.1, 3)
    assert ids[:, 0].tolist() == list(range(500))
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=20)
@given(rows=st.integers(1, 40), k=st.integers(1, 50), seed=st.integers(0, 99))
def test_exact_kinds_equal_brute_force(kind: str, rows: int, k: int, seed: int) -> None:
    keys, queries = vectors(rows, seed=seed), vectors(9, seed=seed + 1)
    index = Index(kind, 8, seed=0)
    index.add(keys)
    scores, ids = index.search(queries, k)
    cosines = normalise(queries) @ normalise(keys).T
    held = min(rows, k)
    np.testing.assert_allclose(scores[:, :held], -np.sort(-cosines, axis=1)[:, :held], atol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(cosines, ids[:, :held], axis=1), scores[:, :held], atol=1e-5
    )
    assert (ids[:, held:] == -1).all()
    assert (scores[:, held:] == -np.inf).all()
    assert all(len(set(row)) == held for row in ids[:, :held].tolist())


@given(query_block=st.integers(1, 7), key_block=st.integers(1, 7), k=st.integers(1, 9))
def test_blocks_of_the_torch_index_do_not_show(query_block: int, key_block: int, k: int) -> None:
    keys, queries = normalise(vectors(10)), normalise(vectors(5))
    whole = TorchFlatIP(8, "cpu")
    parts = TorchFlatIP(8, "cpu", query_block=query_block, key_block=key_block)
    for index in (whole, parts):
        index.add(keys)
    for expected, found in zip(whole.search(queries, k), parts.search(queries, k), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", EXACT)
def test_adding_in_two_steps_equals_adding_at_once(kind: str) -> None:
    keys = vectors(60)
    once, twice = Index(kind, 8, seed=0), Index(kind, 8, seed=0)
    once.add(keys)
    twice.add(keys[:25])
    twice.add(keys[25:])
    for a, b in zip(once.search(vectors(9, seed=1), 7), twice.search(vectors(9, seed=1), 7), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ivf_finds_what_is_added_after_training() -> None:
    index = Index("IVFFlat", 8, seed=0)
    index.add(vectors(1000))
    late = vectors(50, seed=5)
    index.add(late)
    _, ids = index.search(late, 1)
    assert ids[:, 0].tolist() == list(range(1000, 1050))


def test_ivf_is_deterministic_for_a_seed() -> None:
    keys, queries = vectors(3000, 16), vectors(100, 16, seed=1)
    results = []
    for seed in (3, 3, 4):
        index = Index("IVFFlat", 16, nprobe=1, seed=seed)
        index.add(keys)
        results.append(index.search(queries, 20))
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert (results[0][1] != results[2][1]).any()


def test_ivf_recall_of_clustered_vectors_with_automatic_settings() -> None:
    rng = np.random.default_rng(0)
    keys = (rng.normal(size=(60, 16))[rng.integers(0, 60, 6000)] + 0.4 * rng.normal(size=(6000, 16))).astype(
        np.float32
    )
    exact, approximate = Index("Flat", 16, seed=0), Index("IVFFlat", 16, seed=0)
    for index in (exact, approximate):
        index.add(keys)
    _, expected = exact.search(keys[:300], 20)
    _, found = approximate.search(keys[:300], 20)
    overlap = [len(np.intersect1d(a, b)) for a, b in zip(expected, found, strict=True)]
    assert np.mean(overlap) / 20 > 0.95


@pytest.mark.parametrize("rows", [1, 2, 38, 39, 78, 500, 5000])
@pytest.mark.parametrize("nlist", [0, 2])
def test_ivf_training_prints_no_warning(rows: int, nlist: int, capfd: pytest.CaptureFixture[str]) -> None:
    index = Index("IVFFlat", 4, nlist=min(nlist, rows), seed=0)
    index.add(vectors(rows, 4))
    out, err = capfd.readouterr()
    assert out + err == ""


def test_automatic_nprobe_never_exceeds_the_lists() -> None:
    assert [automatic_nprobe(nlist) for nlist in (1, 8, 100, 1450)] == [1, 8, 8, 22]


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    index = Index(kind, 8, seed=0)
    index.add(vectors(300))
    index.save(tmp_path / "index")
    again = Index.load(kind, 8, tmp_path / "index")
    assert (again.kind, again.dimension, len(again)) == (kind, 8, 300)
    for a, b in zip(index.search(vectors(20, seed=2), 9), again.search(vectors(20, seed=2), 9), strict=True):
        np.testing.assert_array_equal(a, b)
    again.add(vectors(5, seed=3))
    assert len(again) == 305


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0, 3, 100])
def test_a_truncated_file_is_named(kind: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = Index(kind, 8, seed=0)
    index.add(vectors(300))
    index.save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=str(path)):
        Index.load(kind, 8, path)
    with pytest.raises(CheckpointError, match="absent"):
        Index.load(kind, 8, tmp_path / "absent")


def test_a_file_of_another_kind_or_width_is_refused(tmp_path: Path) -> None:
    for kind in KINDS:
        index = Index(kind, 8, seed=0)
        index.add(vectors(10))
        index.save(tmp_path / kind)
    faiss.write_index(faiss.IndexFlatL2(8), str(tmp_path / "L2"))
    write_arrays(tmp_path / "doubles", keys=np.ones((10, 8)))
    write_arrays(tmp_path / "row", keys=np.ones(8, np.float32))
    for kind in KINDS:
        for other in ("L2", "doubles", "row", *KINDS):
            if other != kind:
                with pytest.raises(CheckpointError, match=f"{other}: is missing, damaged or no {kind} index"):
                    Index.load(kind, 8, tmp_path / other)
        with pytest.raises(CheckpointError, match=f"no {kind} index of width 9; delete the artifact"):
            Index.load(kind, 9, tmp_path / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_vectors_score_zero(kind: str) -> None:
    keys = np.concatenate([vectors(50), np.zeros((1, 8), np.float32)])
    index = Index(kind, 8, nlist=1 if kind == "IVFFlat" else 0, seed=0)
    index.add(keys)
    scores, ids = index.search(np.zeros((1, 8), np.float32), 5)
    assert (scores == 0).all()
    assert (ids >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_index_finds_nothing(kind: str) -> None:
    index = Index(kind, 8, seed=0)
    index.add(vectors(0))
    scores, ids = index.search(vectors(3), 2)
    assert (ids == -1).all()
    assert (scores == -np.inf).all()
    assert len(index) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_normalising_survives_extreme_scales(scale: float) -> None:
    unit = normalise(np.array([[3, 4], [0, 0]], dtype=np.float32) * np.float32(scale))
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0]], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(kind: str, bad: float) -> None:
    keys = vectors(4)
    keys[2, 1] = bad
    with pytest.raises(DataError, match="row 2"):
        Index(kind, 8, seed=0).add(keys)


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="index_type='IVFFlt' must be one of Flat, IVFFlat, HNSW, Torch"):
        Index("IVFFlt", 8, seed=0)
    with pytest.raises(SettingsError, match="nlist=11 but the memory bank holds only 10"):
        Index("IVFFlat", 8, nlist=11, seed=0).add(vectors(10))
    with pytest.raises(ValueError, match="shape"):
        Index("Flat", 8, seed=0).add(vectors(10, 4))


def test_exact_search_on_another_device_is_by_torch() -> None:
    assert Index("Flat", 8, device="meta").kind == "Torch"
    assert Index("HNSW", 8, device="meta").kind == "HNSW"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
@pytest.mark.parametrize("kind", ["Flat", "IVFFlat", "HNSW"])
def test_a_full_disk_is_told_as_one(kind: str, tmp_path: Path) -> None:
    index = Index(kind, 4)
    index.add(np.random.default_rng(0).normal(size=(50, 4)))
    (tmp_path / "index.bin").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        index.save(tmp_path / "index.bin")
    assert caught.value.errno == errno.ENOSPC
