"""The endpoints answer what the library answers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from asking import Client
from recbole_ra.serving.app import Options


def plain(records: Any) -> Any:
    """Records of a table as JSON says them."""
    return [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in one.items() if v is not None}
        for one in records
    ]


def expected(recommender: Any, **asked: Any) -> list[Any]:
    table = recommender.recommend(**asked)
    groups = dict(list(table.groupby("user")))
    labels = asked.get("users") or range(len(asked["histories"]))
    return [plain(groups[label].drop(columns="user").to_dict("records")) for label in labels]


def near(found: Any, wanted: Any) -> None:
    """Compare lists of items; scores of other batches differ in their last bits."""
    assert [[one["item"] for one in row] for row in found] == [[one["item"] for one in row] for row in wanted]
    for one, other in zip(chain(*found), chain(*wanted), strict=True):
        assert one == {**other, "score": pytest.approx(other["score"], abs=1e-5) if other["score"] else None}


@pytest.mark.parametrize(
    "asked",
    [
        {"users": ["u1", "u2"], "k": 4},
        {"users": ["nobody", "u3"], "k": 3},
        {"histories": [["i1", "i2"], ["i5"]], "k": 25, "filter_seen": False},
        {"histories": [["i3"]], "items": ["i1", "i2", "i9"], "exclude": ["i2"]},
        {"histories": [["i3", "no such item"]], "on_unknown_items": "skip"},
        {"histories": [["i3"]], "exclude": ["no such item"], "on_unknown_items": "skip"},
        {"histories": [["i3", "i4", "i5"]], "memories": False},
    ],
)
def test_recommend_is_the_librarys(asked: dict[str, Any], client: Client) -> None:
    found = client.post("/recommend", **asked)
    near([one["items"] for one in found["recommendations"]], expected(client.recommender, **asked))
    assert [one["user"] for one in found["recommendations"]] == asked.get("users", [None] * 9)[
        : len(found["recommendations"])
    ]
    assert found["unknown_items"] == (["no such item"] if "on_unknown_items" in asked else [])


def test_what_is_asked_at_once_is_answered_as_if_alone(client: Client) -> None:
    bodies: list[dict[str, Any]] = [
        {**({"histories": [[f"i{i % 25}"], ["i2", "i7"]]} if i % 3 else {"users": [f"u{i}"]}),
         "k": 1 + i % 7, "filter_seen": i % 2 == 0, "memories": i % 5 > 0}
        for i in range(40)
    ]  # fmt: skip
    answers = client.all(*(("POST", "/recommend", {"json": body}) for body in bodies))
    for body, answer in zip(bodies, answers, strict=True):
        near([one["items"] for one in answer.json()["recommendations"]], expected(client.recommender, **body))
    (text,) = client.all(("GET", "/metrics", {}))
    lines = [line.split() for line in text.text.splitlines() if line.startswith("recbole_ra_batch")]
    sizes = {name: float(value) for name, value in lines}
    assert sizes['recbole_ra_batch_requests_sum{kind="recommend"}'] == 40
    assert sizes['recbole_ra_batch_requests_count{kind="recommend"}'] <= 3


def test_a_refused_request_leaves_those_beside_it_alone(client: Client) -> None:
    good = {"json": {"users": ["u1"], "k": 2}}
    bad = {"json": {"histories": [["no such item"]]}}
    answers = client.all(*(("POST", "/recommend", given) for given in (good, bad, good)))
    assert [answer.status_code for answer in answers] == [200, 422, 200]


def test_similar_and_explain_are_the_librarys(client: Client) -> None:
    found = client.post("/similar", item="i1", k=3)["similar"]
    table = (
        client.recommender.similar_items(["i1"], 3).drop(columns="item").rename(columns={"similar": "item"})
    )
    assert found == plain(table.to_dict("records"))
    for asked in ({"history": ["i1", "i2"]}, {"user": "u1", "item": "i4"}):
        told = client.recommender.explain(**asked).to_dict()  # type: ignore[arg-type]
        assert client.post("/explain", **asked) == json.loads(json.dumps(told))
    assert {memory["owner"].split()[0] for memory in client.post("/explain", user="u1")["memories"]} <= {
        "own",
        "user",
    }


def test_events_are_remembered_once_and_forgotten(client: Client, run: Path) -> None:
    events = [{"user": "zoe-7", "item": f"i{i}", "time": i + 0.25} for i in range(4)]
    before = client.all(("GET", "/health", {}))[0].json()
    assert client.post("/events", events=[*events, {"user": "zoe-7", "item": "new", "time": 9}]) == {
        "events": 4, "known": 0, "memories": 3, "new_users": 1, "unknown_items": ["new"],
    }  # fmt: skip
    assert client.post("/events", events=events)["known"] == 4
    assert client.all(("GET", "/health", {}))[0].json()["memories"] == before["memories"] + 3
    near(
        [client.post("/recommend", users=["zoe-7"])["recommendations"][0]["items"]],
        [client.post("/recommend", histories=[["i0", "i1", "i2", "i3"]])["recommendations"][0]["items"]],
    )
    assert client.post("/forget", user="zoe-7") == {"memories": 3}
    assert b"zoe-7" not in b"".join(
        path.read_bytes() for path in (run / "model").rglob("*") if path.is_file()
    )
    assert "zoe-7" in client.refusal(404, "POST", "/forget", json={"user": "zoe-7"})


def test_events_that_cannot_be_written_are_not_acknowledged(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    events = {"json": {"events": [{"user": "zoe-7", "item": "i1", "time": 1}]}}
    monkeypatch.setattr("recbole_ra.inference.journal.os.fsync", full)
    assert "no space left" in client.refusal(503, "POST", "/events", **events)
    monkeypatch.undo()
    assert "zoe-7" not in client.recommender.users
    assert client.all(("POST", "/events", events))[0].json()["new_users"] == 1


@pytest.mark.parametrize(
    "query", ["", "?search=", "?search=a&k=0", "?search=a&k=51", "?search=a&more=1", "?search=" + "a" * 101]
)
def test_a_search_that_is_none(query: str, client: Client) -> None:
    client.refusal(422, "GET", f"/items{query}")


def test_search_by_title_or_token(client: Client) -> None:
    found = client.all(("GET", "/items?search=film 1&k=3", {}), ("GET", "/items?search=I7", {}))
    titles = [item["title"] for item in found[0].json()["items"]]
    assert len(titles) == 3
    assert all(title.startswith("Film 1") for title in titles)
    assert found[1].json()["items"] == [{"item": "i7", "title": "Film 7"}]


@pytest.mark.parametrize("model", ["SASRec", "NARM"])
def test_a_model_without_memories_is_served_too(
    model: str, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    client = Client(Path(shutil.copytree(trained(model), tmp_path / "run")), Options())
    try:
        assert client.all(("GET", "/health", {}))[0].json()["memories"] is None
        assert client.post("/explain", user="u1")["memories"] == []
        assert client.post("/events", events=[{"user": "u1", "item": "i1", "time": 1e9}])["events"] == 1
        assert len(client.post("/recommend", users=["u1"], k=3)["recommendations"][0]["items"]) == 3
    finally:
        client.close()
