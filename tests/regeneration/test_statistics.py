from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tables
from recbole_ra.data.table import Origin, SequenceTable
from recbole_ra.regeneration.decoding import Decoded
from recbole_ra.regeneration.merge import RegeneratedData, merge
from recbole_ra.regeneration.statistics import RegenerationStatistics, regeneration_statistics

N_ITEMS = 9  # eight items and padding


def table_of(
    rows: list[list[int]], owner: int | None = None, origin: Origin = Origin.ORIGINAL
) -> SequenceTable:
    return tables.table_of(rows, N_ITEMS, users=None if owner is None else [owner] * len(rows), origin=origin)


def decoded_of(rows: list[list[int]], source: list[int], latent: list[int]) -> Decoded:
    return Decoded(
        np.array([item for row in rows for item in row], dtype=np.int32),
        np.cumsum([0, *map(len, rows)]),
        np.array(source, dtype=np.int64),
        np.array(latent, dtype=np.int64),
    )


ORIGINAL = table_of([[1, 2, 3], [1, 2, 3, 1, 2], [4]])
PATTERNS = table_of([[1, 2], [2, 3], [1, 2, 3]], -1, Origin.PATTERN)
DECODED = decoded_of(
    # a copy of an original and of a pattern; new; too short; twice the same; a copy of a pattern
    [[1, 2, 3], [3, 2, 5], [6], [2, 1, 2], [2, 1, 2], [2, 3]],
    source=[0, 0, 0, 1, 1, 0],
    latent=[0, 0, 1, 1, 2, 2],
)


def everything() -> tuple[RegeneratedData, RegenerationStatistics]:
    data = merge(ORIGINAL, PATTERNS, DECODED.to_table(ORIGINAL), DECODED.latent)
    return data, regeneration_statistics(data, ORIGINAL, patterns=PATTERNS, decoded=DECODED, sources=ORIGINAL)


def test_origins_by_hand() -> None:
    origins = everything()[1].origins
    assert list(origins) == ["original", "pattern", "regenerated"]
    original, pattern, regenerated = origins.values()
    assert original == {
        "rows": 2, "interactions": 8, "lengths": {"3": 1, "5": 1}, "coverage": 3 / 8, "transitions": 3,
        "new_transitions": 0.0, "new_occurrences": 0.0, "dropped": 0,
    }  # fmt: skip
    assert pattern == {
        "rows": 2, "interactions": 4, "lengths": {"2": 2}, "coverage": 3 / 8, "transitions": 2,
        "new_transitions": 0.0, "new_occurrences": 0.0, "dropped": 1,
    }  # fmt: skip
    # 3-2-5 and 2-1-2: pairs 32, 25, 21 are new, 12 is not.
    assert regenerated == {
        "rows": 2, "interactions": 6, "lengths": {"3": 2}, "coverage": 4 / 8, "transitions": 4,
        "new_transitions": 3 / 4, "new_occurrences": 3 / 4, "dropped": 3,
    }  # fmt: skip


def test_latent_spaces_by_hand() -> None:
    latents = everything()[1].latents
    assert {space: (rows["rows"], rows["dropped"]) for space, rows in latents.items()} == {
        "0": (1, 1), "1": (1, 0), "2": (0, 2),
    }  # fmt: skip
    assert (latents["0"]["new_transitions"], latents["1"]["new_transitions"]) == (1.0, 1 / 2)
    assert latents["2"]["interactions"] == latents["2"]["coverage"] == latents["2"]["new_occurrences"] == 0


def test_decoded_rows_by_hand() -> None:
    _, statistics = everything()
    assert statistics.decoded == {
        "rows": 6, "too_short": 1 / 6, "copies": 4 / 6, "copies_of_originals": 1 / 6,
        "copies_of_patterns": 2 / 6, "copies_of_decoded": 2 / 6, "foreign_items": 2 / 15,
    }  # fmt: skip
    found = {space: rows["foreign_items"] for space, rows in statistics.decoded_by_latent.items()}
    assert found == {"0": 1 / 6, "1": 1 / 4, "2": 0.0}
    assert statistics.decoded_by_latent["1"]["copies"] == 1 / 2


def test_patterns_that_were_merged_are_found_without_their_table() -> None:
    data, known = everything()
    found = regeneration_statistics(data, ORIGINAL, decoded=DECODED, sources=ORIGINAL)
    assert found.origins["pattern"]["dropped"] is None
    assert found.origins["regenerated"] == known.origins["regenerated"]
    assert found.decoded is not None
    assert known.decoded is not None
    assert found.decoded["copies"] == known.decoded["copies"]


def test_without_decoded_rows_what_was_dropped_is_unknown() -> None:
    data, known = everything()
    found = regeneration_statistics(data, ORIGINAL)
    assert [rows["dropped"] for rows in found.origins.values()] == [0, None, None]
    assert (found.decoded, found.decoded_by_latent) == (None, {})
    assert found.latents == {space: {**known.latents[space], "dropped": None} for space in ("0", "1")}


def test_rows_are_compared_with_the_originals_even_if_they_are_left_out() -> None:
    data, known = everything()
    found = regeneration_statistics(data.keep(["regenerated"]), ORIGINAL)
    assert list(found.origins) == ["regenerated"]
    new = [statistics.origins["regenerated"]["new_transitions"] for statistics in (found, known)]
    assert new[0] == new[1]


def test_nothing_at_all() -> None:
    data = merge(table_of([]), None, None, None)
    found = regeneration_statistics(data, table_of([]))
    assert found == RegenerationStatistics(N_ITEMS - 1, {}, {}, None, {})


@given(st.lists(st.lists(st.integers(1, 4), max_size=4), max_size=8), st.lists(st.integers(1, 4), max_size=6))
def test_transitions_equal_the_loop(rows: list[list[int]], original: list[int]) -> None:
    data = merge(table_of([]), table_of(rows, -1), None, None)
    found = regeneration_statistics(data, table_of([original])).origins.get("pattern")
    kept = {tuple(row) for row in rows if len(row) > 1}
    pairs = [pair for row in kept for pair in itertools.pairwise(row)]
    known = set(itertools.pairwise(original))
    if not kept:
        assert found is None
    else:
        assert found is not None
        assert found["transitions"] == len(set(pairs))
        assert found["new_transitions"] == len(set(pairs) - known) / len(set(pairs))
        assert found["new_occurrences"] == sum(pair not in known for pair in pairs) / len(pairs)


def test_plain_data_is_the_same_after_json() -> None:
    _, statistics = everything()
    plain = statistics.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["origins"]["original"]["lengths"] == {"3": 1, "5": 1}
    assert plain["decoded_by_latent"]["0"]["rows"] == 2


def test_arguments_that_do_not_fit() -> None:
    data, _ = everything()
    for wrong in ({"decoded": DECODED}, {"sources": ORIGINAL}):
        with pytest.raises(ValueError, match="belong together"):
            regeneration_statistics(data, ORIGINAL, **wrong)
    other = SequenceTable.from_arrays(np.array([1, 2]), np.array([0, 2]), N_ITEMS + 1)
    with pytest.raises(ValueError, match="vocabularies"):
        regeneration_statistics(data, other)
