from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import recbole_ra
from recbole_ra.core.errors import RequestError


def history(recommender: recbole_ra.Recommender, user: str) -> list[str]:
    number = recommender.users.ids([user])[0]
    table = recommender.histories
    return list(recommender.items.names[table.items[table.offsets[number] : table.offsets[number + 1]]])


def test_events_of_many_users_go_to_the_ends_of_their_histories(
    recommender: recbole_ra.Recommender,
) -> None:
    before = {user: history(recommender, user) for user in ("u0", "u7", "u12")}
    done = recommender.add(
        pd.DataFrame(
            {
                "user": ["u12", "new", "u7", "u12", "new", "other"],
                "item": ["i4", "i9", "i2", "i3", "i8", "i1"],
                "timestamp": [2e6, 5, 1e6, 1e6, 4, 3],
            }
        )
    )
    assert (done.events, done.new_users, done.memories) == (6, 2, 4)
    assert history(recommender, "u12") == [*before["u12"], "i3", "i4"]
    assert history(recommender, "u7") == [*before["u7"], "i2"]
    assert history(recommender, "u0") == before["u0"]
    assert history(recommender, "new") == ["i8", "i9"]
    assert history(recommender, "other") == ["i1"]
    bank = recommender.memory.bank
    assert len(bank) == len(bank.index) == len(bank.keys)
    number = recommender.users.ids(["u12"])[0]
    assert bank.values[-4:].tolist() == recommender.items.ids(["i2", "i3", "i4", "i9"]).tolist()
    assert (bank.users[-3:-1] == number).all()
    assert bank.lengths[-3:-1].tolist() == [len(before["u12"]), len(before["u12"]) + 1]
    assert bank.times[-4:].tolist() == [1e6, 1e6, 2e6, 5]


def test_all_at_once_is_as_one_by_one(trained: Any) -> None:
    rng = np.random.default_rng(3)
    events = [(f"u{rng.integers(50)}", f"i{rng.integers(25)}", float(1e6 + time)) for time in range(60)]
    together, apart = trained("RaSASRec").load(), trained("RaSASRec").load()
    together.add(events)
    for event in events:
        apart.add([event])
    assert together.histories.items.tolist()  # histories are there to compare
    for user in dict.fromkeys(user for user, _, _ in events):
        assert history(together, user) == history(apart, user)

    def memories(recommender: recbole_ra.Recommender) -> Any:
        bank = recommender.memory.bank
        names = recommender.users.names[np.maximum(bank.users, 0)].astype(str)
        order = np.lexsort([bank.lengths, names])
        return names[order], bank.values[order], bank.lengths[order], bank.keys[order]

    for one, other in zip(memories(together), memories(apart), strict=True):
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, atol=1e-5)
        else:
            assert one.tolist() == other.tolist()


def test_the_events_that_it_was_trained_with_are_known(recommender: recbole_ra.Recommender) -> None:
    table = recommender.histories
    users = np.repeat(recommender.users.names, table.lengths)
    events = pd.DataFrame(
        {"user_id": users, "item_id": recommender.items.names[table.items], "timestamp": table.times}
    )
    size = len(recommender.memory.bank)
    done = recommender.add(events.sample(frac=1, random_state=0))
    assert (done.events, done.known, done.memories) == (0, len(events), 0)
    assert len(recommender.memory.bank) == size


def test_an_event_counts_once_within_a_call_too(recommender: recbole_ra.Recommender) -> None:
    done = recommender.add([("a", "i1", 1), ("a", "i1", 1), ("a", "i1", 2)])
    assert (done.events, done.known) == (2, 1)


def test_positions_stand_in_for_times(recommender: recbole_ra.Recommender) -> None:
    events = pd.DataFrame({"user": ["a"] * 3, "item": ["i1", "i2", "i1"], "position": [0, 1, 2]})
    assert recommender.add(events.iloc[:2]).events == 2
    assert recommender.add(events).events == 1
    assert history(recommender, "a") == ["i1", "i2", "i1"]


def test_unknown_items_are_left_out_and_named(recommender: recbole_ra.Recommender) -> None:
    done = recommender.add([("a", "i1", 1), ("a", "gadget", 2), ("a", "i2", 3)])
    assert (done.events, done.unknown_items) == (2, ("gadget",))
    assert "'gadget' is unknown to the model" in str(done)
    with pytest.raises(RequestError, match="'gadget' is not among the 25 items"):
        recommender.add([("b", "gadget", 1)], on_unknown_items="error")
    assert "b" not in recommender.users


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([("u1", "i1")], r"must be a DataFrame, or \(user, item, timestamp\) tuples"),
        ("u1", "must be a DataFrame"),
        (3, "must be a DataFrame"),
        (pd.DataFrame({"user": ["u1"], "item": ["i1"]}), "no column 'timestamp'; there are user, item"),
        ([("u1", "i1", "noon")], "timestamp 'noon'"),
        ([("u1", "i1", None)], "is no number"),
        ([(None, "i1", 1)], "row 0 has no user"),
        ([("u1", "i1", 1), ("u1", "", 1)], "row 1 has no item"),
    ],
)
def test_bad_events_change_nothing(events: Any, said: str, recommender: recbole_ra.Recommender) -> None:
    before, size = history(recommender, "u1"), len(recommender.memory.bank)
    with pytest.raises(RequestError, match=said):
        recommender.add(events)
    assert history(recommender, "u1") == before
    assert len(recommender.memory.bank) == size


def test_no_events_are_none(recommender: recbole_ra.Recommender) -> None:
    assert recommender.add([]).events == 0


@pytest.mark.parametrize("kind", ["Flat", "IVFFlat", "HNSW", "Torch"])
def test_a_forgotten_user_is_nowhere(kind: str, recommender: recbole_ra.Recommender, tmp_path: Any) -> None:
    from recbole_ra.retrieval.memory import MemoryBank

    old = recommender.memory.bank
    recommender.memory.set_bank(MemoryBank.build(**old.columns, index_kind=kind, seed=0))
    number = int(recommender.users.ids(["u7"])[0])
    others = old.users != number
    assert recommender.forget("u7") == (~others).sum() > 0
    bank = recommender.memory.bank
    assert number not in bank.users
    assert len(bank.index) == len(bank) == others.sum()
    scores, ids = bank.index.search(bank.keys, 1)
    np.testing.assert_allclose(scores, 1, atol=1e-6)  # each finds itself, or its equal
    np.testing.assert_allclose(bank.keys[ids[:, 0]], bank.keys, atol=1e-4)
    assert history(recommender, "u7") == []  # nobody's
    recommender.save(tmp_path / "after")
    again = recbole_ra.load(tmp_path / "after")
    assert "u7" not in again.users
    assert number not in again.memory.bank.users
    assert b"u7\x00" not in (tmp_path / "after" / "users.parquet").read_bytes()
    with pytest.raises(RequestError, match="'u7' is not among the users"):
        again.forget("u7")
    again.add([("u7", "i1", 1e6)])
    assert again.users.ids(["u7"])[0] > number  # a new one


@pytest.mark.parametrize("name", ["", " lists", " past", " gate", " knn"])
def test_everybody_may_be_forgotten_and_somebody_come(name: str, trained: Any, tmp_path: Any) -> None:
    """With fewer memories than neighbours, and with none, the backbone answers."""
    recommender = trained("RaSASRec" + name).load()
    users = list(recommender.users.names[recommender.users.known()])
    for user in users[:-1]:
        recommender.forget(user)
    assert len(recommender.recommend(users[-1:], k=2)) == 2
    recommender.forget(users[-1])
    assert len(recommender.memory.bank) == 0
    alone = recommender.recommend(histories=[["i1", "i2"]], k=3, memories=False)
    found = recommender.recommend(histories=[["i1", "i2"]], k=3)
    assert list(found["item"]) == list(alone["item"])
    recommender.save(tmp_path / "model")
    again = recbole_ra.load(tmp_path / "model")
    assert again.recommend(histories=[["i1", "i2"]], k=3).equals(found)
    assert again.add([("new", "i1", 1), ("new", "i2", 2), ("new", "i5", 3)]).memories == 2
    assert len(again.recommend(["new"], k=2)) == 2


def test_nothing_of_who_was_forgotten_stays_in_memory(recommender: recbole_ra.Recommender) -> None:
    recommender.add([("ada", "i1", 1), ("ada", "i2", 2), ("ada", "i3", 3)])
    number = recommender.users.ids(["ada"])[0]
    recommender.forget("ada")
    bank = recommender.memory.bank
    whole = bank.users if bank.users.base is None else bank.users.base
    assert number not in whole
    assert not bank._room


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (
            pd.DataFrame({"user": "u1", "item": "i3", "timestamp": pd.to_datetime(["2024-01-01", None])}),
            "NaT",
        ),
        ([("u1", "i3", 1), ("u1", "i4", 10**400)], "1000"),
    ],
)
def test_a_time_that_is_none_adds_nothing(
    events: Any, said: str, recommender: recbole_ra.Recommender
) -> None:
    before = len(recommender.histories.items)
    with pytest.raises(RequestError, match=rf"timestamp {said}.* \(row 1\) is no number"):
        recommender.add(events)
    assert len(recommender.histories.items) == before


def test_a_place_in_the_log_is_no_time_where_there_is_one(recommender: recbole_ra.Recommender) -> None:
    log = {"user": "new", "item": ["i3", "i4"], "time": [9e9, 9.1e9], "position": [5, 1]}
    recommender.add(pd.DataFrame(log))
    assert history(recommender, "new") == ["i3", "i4"]
    assert recommender.histories.times[-2:].tolist() == [9e9, 9.1e9]
