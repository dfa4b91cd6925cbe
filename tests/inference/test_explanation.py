from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import recbole_ra
from recbole_ra.core.errors import RequestError
from recbole_ra.retrieval.held_out import set_weights
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.mixture import NeighbourMixture

RETRIEVAL = ("RaSASRec", "RaNARM", "RaSASRec knn", "RaSASRec gate", "RaSASRec bias")


@pytest.mark.parametrize("model", ["SASRec", "RaSASRec", "NARM", "RaNARM"])
def test_score_and_rank_are_those_of_the_recommendation(model: str, trained: Callable[[str], Any]) -> None:
    recommender = trained(model).load()
    table = recommender.recommend(["u4"], k=6)
    for row in table.itertuples():
        found = recommender.explain(user="u4", item=row.item)
        assert (found.user, found.item, found.title, found.rank) == ("u4", row.item, row.title, row.rank)
        assert found.score == pytest.approx(row.score, abs=1e-6)
    assert recommender.explain(user="u4").item == table["item"].iloc[0]


@pytest.mark.parametrize("model", RETRIEVAL)
def test_without_memories_it_is_the_backbone(model: str, trained: Callable[[str], Any]) -> None:
    recommender = trained(model).load()
    history = ["i3", "i4", "i9"]
    interaction = recommender.scorer.interaction(recommender.requests(histories=[history]))
    alone = recommender.memory.base.full_sort_predict(interaction)[0].detach().numpy()
    for item in ("i0", "i5", "i11"):
        found = recommender.explain(history, item=item)
        assert found.score_without == pytest.approx(alone[recommender.items.ids([item])[0]], abs=1e-5)


@pytest.mark.parametrize("model", RETRIEVAL)
def test_the_memories_are_the_most_similar_ones(model: str, trained: Callable[[str], Any]) -> None:
    recommender = trained(model).load()
    bank, memory = recommender.memory.bank, recommender.memory
    state = (
        memory.base.represent(recommender.scorer.interaction(recommender.requests(histories=[["i3", "i4"]])))[
            0
        ]
        .detach()
        .numpy()
    )
    cosines = bank.keys @ state / np.linalg.norm(bank.keys, axis=1) / np.linalg.norm(state)
    table = recommender.explain(["i3", "i4"]).memories
    np.testing.assert_allclose(table["similarity"], np.sort(cosines)[::-1][:5], atol=1e-5)
    assert table["attention"].sum() == pytest.approx(1, abs=1e-5)
    assert (table["attention"] > 0).all()
    top = np.argsort(-cosines, kind="stable")[0]
    assert table["item"].iloc[0] == recommender.items.names[bank.values[top]]


def test_an_effect_is_what_the_score_lacks_without_the_memory(recommender: recbole_ra.Recommender) -> None:
    history = ["i3", "i4"]
    before = recommender.explain(history, item="i9", owners=True)
    bank = recommender.memory.bank
    ids = (
        recommender.memory.query(recommender.scorer.interaction(recommender.requests(histories=[history])))
        .ids[0]
        .numpy()
    )
    keep = np.isin(np.arange(len(bank)), ids[[0, 1, 3, 4]])
    columns = {name: column[keep] for name, column in bank.columns.items()}
    votes = recommender.memory.mixture.transitions
    recommender.memory.set_bank(MemoryBank.build(**columns, index_kind="Flat", seed=0), votes)
    recommender.memory.n_neighbors = 4
    after = recommender.explain(history, item="i9")
    assert before.memories["effect"].iloc[2] == pytest.approx(before.score - after.score, abs=1e-6)


def test_owners_are_numbers_unless_asked_for(recommender: recbole_ra.Recommender) -> None:
    plain, named = (recommender.explain(["i3", "i4"], owners=owners) for owners in (False, True))
    assert not set(plain.memories["owner"]) & set(recommender.users.names)
    assert set(named.memories["owner"]) <= set(recommender.users.names)
    numbers = {name: f"user {place}" for place, name in enumerate(dict.fromkeys(named.memories["owner"]), 1)}
    assert plain.memories["owner"].tolist() == [numbers[name] for name in named.memories["owner"]]
    assert plain.n_owners == named.n_owners == len(numbers)
    assert not any(str(name) in str(plain).split() for name in named.memories["owner"])


def test_patterns_and_own_memories_are_called_so(recommender: recbole_ra.Recommender) -> None:
    bank = recommender.memory.bank
    users = bank.users.copy()
    users[::2] = -1
    recommender.memory.set_bank(dataclasses.replace(bank, users=users))
    owners = recommender.explain(user="u4").memories["owner"]
    assert "pattern" in set(owners)
    recommender.add([("me", f"i{time % 3}", time) for time in range(12)])
    assert "own" in set(recommender.explain(user="me").memories["owner"])


def test_a_model_without_memories_says_so(trained: Callable[[str], Any]) -> None:
    found = trained("SASRec").load().explain(["i1"])
    assert found.memories.empty
    assert list(found.memories.columns) == ["item", "title", "similarity", "attention", "effect", "owner"]
    assert found.rank_without is None
    assert "SASRec remembers nothing" in str(found)


def test_it_is_plain_values(recommender: recbole_ra.Recommender) -> None:
    plain = json.loads(json.dumps(recommender.explain(["i1", "i2"]).to_dict(), allow_nan=False))
    assert len(plain["memories"]) == 5
    assert plain["memories"][0].keys() == {"item", "title", "similarity", "attention", "effect", "owner"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give a history or a user"),
        ({"user": "u99"}, "'u99' is not among the users"),
        ({"history": []}, "explain: the history holds no item that this recommender knows"),
        ({"history": ["x"]}, "explain: the history holds no item that this recommender knows"),
        ({"history": ["i1"], "item": "x"}, "not among the .* items of this recommender; name another"),
        ({"history": ["i1"], "item": "x"}, "item: 'x' is not among the 25 items"),
        ({"history": "i1"}, "must be a list of tokens"),
        ({"history": [f"i{i}" for i in range(25)]}, "holds every item"),
    ],
)
def test_bad_questions(asked: dict[str, Any], said: str, recommender: recbole_ra.Recommender) -> None:
    with pytest.raises(RequestError, match=said):
        recommender.explain(**asked)


@pytest.mark.parametrize(("weight", "said"), [(1.0, True), (0.5, False)])
def test_memories_without_weight_are_called_so(
    weight: float, said: bool, recommender: recbole_ra.Recommender
) -> None:
    assert recommender.memory is not None
    set_weights(recommender.memory, {"alpha": weight, "mixture_weight": weight})
    found = recommender.explain(user="u3")
    assert ("so the backbone was kept" in found.note) == said
    assert (found.memories["effect"].abs().max() < 1e-6) == said


def test_votes_of_the_history(recommender: recbole_ra.Recommender) -> None:
    """An effect is what the score lacks without the votes of that item; only votes count at alpha 1."""
    memory, history = recommender.memory, ["i3", "i4", "i9"]
    assert memory is not None
    set_weights(memory, {"alpha": 1.0, "mixture_weight": 0.4, "decay": 0.6})
    found = recommender.explain(history, item="i10")
    assert "no weight, since alpha is 1" in found.note
    assert (found.memories["effect"].abs().max()) < 1e-6
    assert list(found.votes["effect"]) == sorted(found.votes["effect"], reverse=True)
    assert {*found.votes["item"]} <= {*history}
    strongest = found.votes.iloc[0]
    query = memory.query(recommender.scorer.interaction(recommender.requests(histories=[history])))
    number = int(recommender.items.ids([strongest["item"]])[0])
    query.voters = torch.where(query.histories == number, 0, query.histories)
    left = float(recommender.scorer.scores(query)[0, recommender.items.ids(["i10"])[0]])
    assert strongest["effect"] == pytest.approx(found.score - left, abs=1e-6)
    assert f"{strongest['effect']:.4f}" in str(found)
    set_weights(memory, {"alpha": 1.0, "mixture_weight": 1.0})
    assert recommender.explain(history, item="i10").votes.empty


def test_attention_is_of_the_fusion_alone(recommender: recbole_ra.Recommender) -> None:
    plain = recommender.explain(["i3", "i4"]).memories["attention"]
    recommender.memory.mixture = NeighbourMixture(weight=0.5, sharpness=0.1)
    mixed = recommender.explain(["i3", "i4"]).memories["attention"]
    assert mixed.tolist() == pytest.approx(plain.tolist(), abs=1e-6)


def test_later_memories_of_a_user_who_was_added_are_hidden(recommender: recbole_ra.Recommender) -> None:
    items = [f"i{3 * time % 7}" for time in range(12)]
    recommender.add([("me", item, time) for time, item in enumerate(items)])
    asked = recommender.requests(histories={"me": items[:4]})
    found = recommender.memory.query(recommender.scorer.interaction(asked))
    bank, ids = recommender.memory.bank, found.ids[found.valid].numpy()
    own = ids[bank.users[ids] == recommender.users.ids(["me"])[0]]
    assert (bank.lengths[own] < 4).all()
    nobody = recommender.memory.query(
        recommender.scorer.interaction(recommender.requests(histories=[items[:4]]))
    )
    others = nobody.ids[nobody.valid].numpy()
    assert (bank.lengths[others][bank.users[others] == recommender.users.ids(["me"])[0]] >= 4).any()
