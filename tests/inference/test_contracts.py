"""What holds of a recommender whatever its model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import recbole_ra

MODELS = ("SASRec", "DuoRec", "RaSASRec", "NARM", "RaNARM")
VARIANTS = [f"RaSASRec {name}" for name in ("past", "lists", "knn", "gate", "bias")]
VARIANTS += ["RaNARM all", "RaBERT4Rec", "SRGNN", "InfiniteAE"]

each_model = pytest.mark.parametrize("model", MODELS)


def all_scores(recommender: recbole_ra.Recommender, requests: Any) -> Any:
    """Scores of every item for each request, shape [R, n_items]."""
    scores = np.empty((len(requests), recommender.scorer.n_items), np.float32)
    for rows, block in recommender.scorer.blocks(requests):
        scores[rows] = block.numpy()
    return scores


@pytest.mark.parametrize("model", [*MODELS, *VARIANTS])
def test_scores_are_those_of_evaluation(model: str, trained: Callable[[str], Any]) -> None:
    run = trained(model)
    recommender = run.load()
    requests = recommender.requests(
        histories=dict(zip(run.users, run.histories, strict=True)),
        context={"time": dict(zip(run.users, run.times, strict=True))},
    )
    np.testing.assert_allclose(
        all_scores(recommender, requests)[:, 1:], run.scores[:, 1:], atol=1e-6, rtol=1e-6
    )


@each_model
@pytest.mark.parametrize("protocol", ["unmasked", "masked"])
def test_recommendations_hit_as_often_as_the_test_says(
    model: str, protocol: str, trained: Callable[[str], Any]
) -> None:
    run = trained(model)
    table = run.load().recommend(
        histories=dict(zip(run.users, run.histories, strict=True)), k=10, filter_seen=protocol == "masked"
    )
    targets = table["user"].map(dict(zip(run.users, run.targets, strict=True)))
    hits = table.loc[table["item"] == targets, "rank"]
    assert len(hits) / len(run.users) == pytest.approx(run.result.test[protocol]["recall@10"])
    gain = (1 / np.log2(hits + 1)).sum() / len(run.users)
    assert gain == pytest.approx(run.result.test[protocol]["ndcg@10"])


@each_model
def test_a_table_has_k_new_items_a_user_best_first(model: str, trained: Callable[[str], Any]) -> None:
    run = trained(model)
    recommender = run.load()
    table = recommender.recommend("all", k=7)
    assert list(table.columns) == ["user", "item", "score", "rank", "title"]
    assert table["user"].tolist() == np.repeat(recommender.users.names[1:], 7).tolist()
    assert table["rank"].tolist() == list(range(1, 8)) * len(run.users)
    assert not table.groupby("user")["score"].diff().gt(0).any()
    seen = {
        (user, item)
        for user, history, target in zip(run.users, run.histories, run.targets, strict=True)
        for item in [*history, target]
    }
    assert not seen & set(zip(table["user"], table["item"], strict=True))
    assert {"i3": "Film 3", "i21": None}.items() <= dict(
        zip(table["item"], table["title"], strict=True)
    ).items()


@each_model
def test_filters_leave_the_best_of_what_is_allowed(model: str, trained: Callable[[str], Any]) -> None:
    recommender = trained(model).load()
    everything = recommender.recommend(["u3", "u8"], k=25, filter_seen=False)
    only = [f"i{i}" for i in range(0, 25, 2)]
    some = recommender.recommend(["u3", "u8"], k=5, filter_seen=False, items=only, exclude=["i4", "i6"])
    expected = everything[everything["item"].isin(set(only) - {"i4", "i6"})].groupby("user").head(5)
    assert some["item"].tolist() == expected["item"].tolist()
    assert some["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    np.testing.assert_allclose(some["score"], expected["score"], atol=1e-6)


@each_model
def test_a_new_user_with_a_known_history_gets_the_same(model: str, trained: Callable[[str], Any]) -> None:
    run = trained(model)
    recommender = run.load()
    whole = [[*history, target] for history, target in zip(run.histories, run.targets, strict=True)]
    known = recommender.recommend(run.users)
    new = recommender.recommend(histories=whole)
    assert new["item"].tolist() == known["item"].tolist()
    np.testing.assert_allclose(new["score"], known["score"], atol=1e-6)
    rows = [
        (user, item, time)
        for user, items in zip(run.users, whole, strict=True)
        for time, item in enumerate(items)
    ]
    shuffled = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).sample(frac=1, random_state=1)
    table = recommender.recommend(histories=shuffled).set_index(["user", "rank"])
    expected = known.set_index(["user", "rank"])["item"]
    assert (table["item"].loc[expected.index] == expected).all()


@each_model
def test_the_order_of_requests_does_not_matter(model: str, trained: Callable[[str], Any]) -> None:
    run = trained(model)
    recommender = run.load()
    forward, back = recommender.recommend(run.users), recommender.recommend(run.users[::-1])
    alone = pd.concat([recommender.recommend([user]) for user in run.users[:5]])
    keys = ["user", "rank"]
    assert_frame_equal(
        forward.sort_values(keys).reset_index(drop=True), back.sort_values(keys).reset_index(drop=True)
    )
    assert_frame_equal(forward.head(len(alone)), alone.reset_index(drop=True), atol=1e-6)


@each_model
def test_saving_and_loading_change_no_score(
    model: str, trained: Callable[[str], Any], tmp_path: Path
) -> None:
    recommender = trained(model).load()
    recommender.add([("u1", "i2", 1e6), ("somebody", "i3", 1.5), ("somebody", "i4", 2.5)])
    recommender.save(tmp_path / "copy")
    again = recbole_ra.load(tmp_path / "copy")
    assert_frame_equal(again.recommend("all"), recommender.recommend("all"), check_exact=True)
    assert again.similar_items(["i1"]).equals(recommender.similar_items(["i1"]))
    assert not again.add([("somebody", "i4", 2.5)]).events


@each_model
def test_what_was_added_is_looked_at_and_what_was_forgotten_is_not(
    model: str, trained: Callable[[str], Any]
) -> None:
    recommender = trained(model).load()
    before = recommender.recommend(["u1", "u2"])
    events = [("fresh", f"i{i}", i) for i in (7, 3, 9, 1)]
    done = recommender.add(events)
    memories = 3 if model.startswith("Ra") else 0
    assert (done.events, done.known, done.new_users, done.memories) == (4, 0, 1, memories)
    assert "fresh" in recommender.users
    history = ["i1", "i3", "i7", "i9"]  # in the order of their times
    expected = recommender.recommend(histories=[history])
    assert recommender.recommend(["fresh"])["item"].tolist() == expected["item"].tolist()
    if memories:
        found = recommender.explain(history[:3], owners=True).memories
        assert found.loc[found["similarity"] > 1 - 1e-6, ["owner", "item"]].values.tolist() == [
            ["fresh", "i9"]
        ]
    again = recommender.add(events)
    assert (again.events, again.known, again.new_users, again.memories) == (0, 4, 0, 0)

    assert recommender.forget("fresh") == memories
    assert "fresh" not in recommender.users
    assert recommender.recommend(["fresh"])["score"].isna().all()  # cold again
    assert_frame_equal(recommender.recommend(["u1", "u2"]), before, atol=1e-6)
    if memories:
        assert "fresh" not in set(recommender.explain(history[:3], owners=True).memories["owner"])


@each_model
def test_similar_items_are_others_by_cosine(model: str, trained: Callable[[str], Any]) -> None:
    recommender = trained(model).load()
    table = recommender.similar_items(["i5", "i6"], k=4)
    assert list(table.columns) == ["item", "similar", "score", "rank", "title"]
    assert table["item"].tolist() == ["i5"] * 4 + ["i6"] * 4
    assert (table["item"] != table["similar"]).all()
    assert table["score"].between(-1, 1).all()
    there_and_back = [
        recommender.similar_items([one], k=24).set_index("similar").loc[other, "score"]
        for one, other in (("i5", "i6"), ("i6", "i5"))
    ]
    assert there_and_back[0] == pytest.approx(there_and_back[1], abs=1e-6)
