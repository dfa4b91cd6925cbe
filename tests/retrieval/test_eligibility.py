from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from recbole_ra.core.errors import SettingsError
from recbole_ra.retrieval.eligibility import eligible

about = st.tuples(
    st.integers(-1, 3), st.integers(1, 5), st.one_of(st.integers(0, 4).map(float), st.just(float("nan")))
)


def ask(queries: list[tuple], memories: list[tuple], scope: str) -> np.ndarray:
    query, memory = np.array(queries, dtype=float), np.array(memories, dtype=float)
    return eligible(
        query_users=query[:, 0].astype(np.int64)[:, None],
        query_lengths=query[:, 1].astype(np.int64)[:, None],
        query_times=query[:, 2][:, None],
        memory_users=memory[:, 0].astype(np.int64)[None],
        memory_lengths=memory[:, 1].astype(np.int64)[None],
        memory_times=memory[:, 2][None],
        scope=scope,
    )


@given(st.lists(about, min_size=1), st.lists(about, min_size=1), st.sampled_from(["any", "past"]))
def test_equals_the_loop(queries: list[tuple], memories: list[tuple], scope: str) -> None:
    expected = [[reference.may_use(query, memory, scope) for memory in memories] for query in queries]
    found = ask(queries, memories, scope)
    assert found.dtype == np.bool_
    assert found.tolist() == expected


def test_known_answers() -> None:
    nan = float("nan")
    memories = [(7, 2, 10.0), (7, 3, 20.0), (7, 4, 30.0), (8, 9, 15.0), (8, 9, 20.0), (-1, 9, nan)]
    assert ask([(7, 3, 20.0)], memories, "any").tolist() == [[True, False, False, True, True, True]]
    assert ask([(7, 3, 20.0)], memories, "past").tolist() == [[True, False, False, True, False, False]]


def test_nobody_is_not_even_nobody() -> None:
    assert ask([(-1, 1, 0.0)], [(-1, 5, 9.0)], "any").all()


@given(st.lists(about, min_size=1), st.lists(about, min_size=1))
def test_past_never_allows_more_than_any(queries: list[tuple], memories: list[tuple]) -> None:
    assert (ask(queries, memories, "any") | ~ask(queries, memories, "past")).all()


def test_an_unknown_scope_is_named() -> None:
    with pytest.raises(SettingsError, match="memory_scope='passt' must be any or past"):
        ask([(1, 1, 0.0)], [(1, 1, 0.0)], "passt")
