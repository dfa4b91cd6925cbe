"""What a request says wrongly is said in one line, with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recbole_ra
from recbole_ra.core.errors import RecboleRaError, RequestError
from recbole_ra.inference.requests import request_times


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give users or histories"),
        ({"users": "all", "histories": [["i1"]]}, "give users or histories"),
        ({"users": "u1"}, r"'u1': must be a list of tokens, not a single one; write \['u1'\]"),
        ({"users": [["u1"]]}, "must be one token"),
        ({"users": ["u1"], "k": 0}, "k=0: must be a whole number from 1 on"),
        ({"users": ["u1"], "k": 2.5}, "k=2.5: must be a whole number"),
        ({"users": ["u1"], "k": True}, "k=True: must be a whole number"),
        ({"users": ["u1"], "k": 26}, "k=26: there are only 25 items; ask for fewer"),
        ({"users": ["u99"], "on_cold_users": "error"}, "users: 'u99' is unknown or without a known item"),
        ({"histories": [["i1"], []], "on_cold_users": "error"}, "'1' is unknown or without a known item"),
        ({"histories": [["i1", "i77"]], "on_unknown_items": "error"}, "'i77' is not among the 25 items"),
        ({"histories": [["i1", "x", "y"]], "on_unknown_items": "error"}, "'x', 'y' are not among"),
        ({"histories": ["i1", "i2"]}, r"is one list of items; write \[\['i1', 'i2'\]\]"),
        ({"histories": "i1"}, "must be lists of item tokens"),
        ({"histories": 3}, "must be lists of item tokens"),
        ({"histories": [["i1"], 3]}, "entry 1 is 3, must be a list"),
        ({"histories": {"a": "i1"}}, "entry 0 is 'i1', must be a list"),
        ({"histories": [["i1", ["i2"]]]}, "must be one token"),
        ({"users": ["u1"], "items": ["i77"]}, "leave no item to recommend"),
        ({"users": ["u1"], "items": ["i1"], "exclude": ["i1"]}, "leave no item to recommend"),
        ({"users": ["u1"], "items": ["i77"], "on_unknown_items": "error"}, "items: 'i77' is not among"),
        ({"users": ["u1"], "items": "i1"}, "must be a list of tokens"),
        ({"users": ["u1"], "on_unknown_items": "drop"}, "on_unknown_items='drop' must be one of skip, error"),
        ({"users": ["u1"], "on_cold_users": "skip"}, "on_cold_users='skip' must be one of popular, error"),
        ({"users": ["u1"], "context": {"place": 1}}, "unknown entry 'place'; there is only 'time'"),
        ({"users": ["u1"], "context": {"time": "noon"}}, "time must be a number"),
        ({"users": ["u1"], "context": {"time": [1, 2]}}, "one for each of the 1 requests"),
        ({"users": ["u1"], "context": {"time": np.nan}}, "not NaN"),
        ({"users": ["u1"], "context": {"time": np.timedelta64(1, "D")}}, "time must be a number"),
        (
            {"users": ["u1"], "context": {"time": {"u2": 1.0}}},
            "time of 'u2' is not asked for",
        ),
        ({"users": ["u1"], "context": {"time": np.datetime64("NaT", "s")}}, "time must be a number"),
        (
            {"histories": pd.DataFrame({"who": ["a"], "what": ["i1"]})},
            "no column 'user_id'; there are who, what; rename",
        ),
        (
            {"histories": pd.DataFrame({"user": ["a"], "item": ["i1"], "time": ["noon"]})},
            r"timestamp 'noon' \(row 0\) is no number",
        ),
    ],
)
def test_a_bad_request_names_the_remedy(
    asked: dict[str, Any], said: str, trained: Callable[[str], Any]
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        trained("RaSASRec").load().recommend(**asked)
    assert isinstance(caught.value, RecboleRaError)
    assert "\n" not in str(caught.value)


def test_cold_users_get_what_most_users_have(recommender: recbole_ra.Recommender) -> None:
    table = recommender.recommend(["u1", "nobody"], k=4, exclude=["i3"])
    cold = table[table["user"] == "nobody"]
    counts = pd.Series(recommender.popularity, recommender.items.names).drop(["[PAD]", "i3"])
    assert cold["item"].tolist() == counts.sort_values(ascending=False, kind="stable").index[:4].tolist()
    assert cold["score"].isna().all()
    assert table[table["user"] == "u1"]["score"].notna().all()


def test_unknown_items_are_skipped(recommender: recbole_ra.Recommender) -> None:
    asked = recommender.requests(histories=[["i1", "x", "i2", "x"], ["y"]])
    assert asked.unknown_items == ["x", "y"]
    assert asked.cold.tolist() == [False, True]
    clean = recommender.recommend(histories=[["i1", "i2"]])
    table = recommender.recommend(histories=[["i1", "x", "i2", "x"]])
    assert table.equals(clean)


def test_tokens_may_be_numbers(tmp_path: Any, trained: Callable[[str], Any]) -> None:
    recommender = trained("SASRec").load()
    recommender.add([(17, "i1", 1), (17, "i2", 2)])
    for user in (17, np.int64(17), 17.0, "17"):
        table = recommender.recommend([user], k=1)
        assert table["user"].tolist() == ["17"]
        assert table["score"].notna().all()
    assert recommender.recommend(pd.Series([17]), k=1)["score"].notna().all()
    assert recommender.recommend(pd.Series([17.0, np.nan]), k=1)["score"].notna().tolist() == [True, False]


def test_fewer_than_k_where_a_history_leaves_fewer(recommender: recbole_ra.Recommender) -> None:
    history = [f"i{i}" for i in range(22)]
    table = recommender.recommend(histories=[history, ["i1"]], k=5)
    assert set(table.loc[table["user"] == 0, "item"]) == {"i22", "i23", "i24"}
    assert (table["user"] == 1).sum() == 5


def test_nobody_is_a_request_too(recommender: recbole_ra.Recommender) -> None:
    table = recommender.recommend([])
    assert table.empty
    assert list(table.columns) == ["user", "item", "score", "rank", "title"]


def test_a_known_users_later_memories_stay_hidden_from_its_earlier_self(
    recommender: recbole_ra.Recommender,
) -> None:
    history = recommender.items.names[recommender.histories.items[: recommender.histories.lengths[1]]]
    user, early = recommender.users.names[1], list(history[:3])
    hidden = recommender.explain(early, user=user, owners=True).memories
    assert "own" not in set(hidden["owner"])
    seen = recommender.explain(early, owners=True).memories
    assert user in set(seen["owner"])  # as a stranger, it meets its own training pair
    assert seen.iloc[0]["similarity"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "time",
    [
        np.datetime64("2024-01-01"),
        datetime(2024, 1, 1),
        pd.Timestamp("2024-01-01 01:00", tz="Europe/Paris"),
        pd.to_datetime(["2024-01-01"]),
        pd.Series(pd.to_datetime(["2024-01-01"])),
        pd.Series(pd.to_datetime(["2024-01-01 01:00"]).tz_localize("Europe/Paris")),
        {"5": 1_704_067_200},
        {5: 1_704_067_200},
        {"5": np.datetime64("2024-01-01"), "6": 7},
    ],
    ids=["numpy", "python", "zone", "index", "column", "column zone", "by token", "by number", "by date"],
)
def test_a_time_is_read_in_seconds_whoever_it_is_of(time: Any, recommender: recbole_ra.Recommender) -> None:
    asked = recommender.requests([5], context={"time": time})
    assert asked.times.tolist() == [1_704_067_200]
    if isinstance(time, dict):
        asked = recommender.requests(["5", "7"], context={"time": {"5": time.get("5", time.get(5))}})
        assert asked.times.tolist() == [1_704_067_200, np.inf]


def test_dates_beyond_nanoseconds_are_read(recommender: recbole_ra.Recommender) -> None:
    asked = recommender.requests([5], context={"time": np.datetime64("9999-01-01")})
    assert asked.times.tolist() == [253_370_764_800]


def test_a_date_may_be_text() -> None:
    labels = np.array(["a", "b", "c"], dtype=object)
    given = ["2024-05-01", "2024-05-01T12:00:00+02:00", "7.5"]
    found = request_times({"time": given}, labels)
    assert found.tolist() == [1714521600.0, 1714557600.0, 7.5]
