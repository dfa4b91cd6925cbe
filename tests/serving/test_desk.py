"""The desk keeps what it acknowledged, also where the disk takes no save."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import recbole_ra
from recbole_ra.core import files
from recbole_ra.core.errors import RecboleRaError
from recbole_ra.inference import journal as journals
from recbole_ra.inference.journal import Change, Journal
from recbole_ra.serving import desk as desks
from recbole_ra.serving.desk import Desk
from recbole_ra.serving.problems import Refusal
from recbole_ra.serving.schema import EventsRequest, ForgetRequest, RecommendRequest


@pytest.fixture
def desk(run: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(desks, "CHANGES", 3)
    return Desk(recbole_ra.load(run), Journal(run / "model"))


def event(number: int) -> EventsRequest:
    return EventsRequest.model_validate({"events": [{"user": "ada", "item": f"i{number}", "time": number}]})


def full(*_: Any) -> None:
    raise RecboleRaError("model: no space left on the disk; free some and run again")


def test_the_recommender_is_saved_after_so_many_changes(desk: Desk, run: Path) -> None:
    for number in range(4):
        desk.remember([event(number)])
    assert desk.journal.changes == 1
    again = recbole_ra.load(run)
    assert again.add([("ada", f"i{number}", number) for number in range(4)]).events == 0


def test_events_are_kept_where_no_save_is_possible(
    desk: Desk, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(journals, "save_recommender", full)
        for number in range(8):
            (outcome,) = desk.remember([event(number)])
            assert isinstance(outcome, bytes)
            assert json.loads(outcome)["events"] == 1
    assert capsys.readouterr().err.count("cannot be saved: model: no space left") == 1
    assert recbole_ra.load(run).add([("ada", f"i{number}", number) for number in range(8)]).events == 0
    desk.remember([event(8)])  # the third save is tried after nine changes
    assert (desk.unsaved, desk.journal.changes) == (None, 0)


def test_who_is_forgotten_is_told_what_the_disk_still_holds(
    desk: Desk, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [ForgetRequest(user="u1"), ForgetRequest(user="nobody")]
    with monkeypatch.context() as broken:
        broken.setattr(journals, "save_recommender", full)
        for _ in range(2):  # who asks again is no stranger
            known, unknown = desk.forget(asked)
            assert isinstance(known, Refusal)
            assert isinstance(unknown, Refusal)
            assert (known.status, unknown.status) == (503, 503)
            assert "not from the disk yet: model: no space left" in known.detail
        desk.close()
    assert isinstance(desk.unsaved, RecboleRaError)
    assert "u1" not in recbole_ra.load(run).users  # the journal says so


def test_a_journal_that_takes_nothing_refuses(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.journal, "append", full)
    for outcome in (*desk.remember([event(1)]), *desk.forget([ForgetRequest(user="u1")])):
        assert isinstance(outcome, Refusal)
        assert (outcome.status, outcome.headers["Retry-After"]) == (503, "10")
    assert "ada" not in desk.recommender.users
    assert "u1" in desk.recommender.users


def test_a_save_that_fails_in_any_way_costs_no_answer(
    desk: Desk, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("something of a library")

    monkeypatch.setattr(desk, "_save_at", 1)
    with monkeypatch.context() as broken:
        broken.setattr(journals, "save_recommender", fail)
        (outcome,) = desk.remember([event(1)])
        assert isinstance(outcome, bytes)
        assert str(desk.unsaved) == "something of a library"
        (outcome,) = desk.forget([ForgetRequest(user="u1")])
        assert isinstance(outcome, Refusal)
        assert outcome.status == 503
    (outcome,) = desk.forget([ForgetRequest(user="u2")])
    assert isinstance(outcome, bytes)
    assert desk.unsaved is None


def users_on_disk(run: Path) -> set[str]:
    return {*pd.read_parquet(run / "model" / "users.parquet")["user"].dropna()}


def test_who_is_forgotten_is_off_the_disk_with_the_next_change(
    desk: Desk, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(journals, "save_recommender", full)
        desk.forget([ForgetRequest(user="u1")])
    desk.remember([event(1)])  # too soon to try again
    assert "u1" in users_on_disk(run)
    monkeypatch.setattr(desks, "monotonic", lambda: math.inf)
    desk.remember([event(2)])
    assert desk.unsaved is None
    assert "u1" not in users_on_disk(run)


def test_who_was_forgotten_before_a_kill_is_off_the_disk_with_the_next_start(desk: Desk, run: Path) -> None:
    desk.journal.append([Change(forgotten="u1")])
    desk.journal._file.close()
    assert "u1" in users_on_disk(run)
    Desk(recbole_ra.load(run), Journal(run / "model"))
    assert "u1" not in users_on_disk(run)


def test_a_save_that_cannot_delete_the_one_before_is_not_done(
    desk: Desk, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(files, "remove", lambda path: None)
        for user in ("u1", "u1"):
            (outcome,) = desk.forget([ForgetRequest(user=user)])
            assert isinstance(outcome, Refusal)
            assert "cannot be deleted" in outcome.detail
    (outcome,) = desk.forget([ForgetRequest(user="u1")])
    assert isinstance(outcome, Refusal)
    assert outcome.status == 404
    assert not files.orphans(run / "model")


def test_too_little_memory_for_one_request_is_nobody_elses(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = desk.recommender.tables

    def short(requests: Any, chosen: Any) -> Any:
        if chosen.k == 7:
            raise RecboleRaError("too little memory")
        return tables(requests, chosen)

    monkeypatch.setattr(desk.recommender, "tables", short)
    asked = [RecommendRequest.model_validate({"users": ["u1"], "k": k}) for k in (3, 7)]
    fine, refused = desk.recommend(asked)
    assert isinstance(fine, bytes)
    assert isinstance(refused, Refusal)
    assert refused.status == 503


def test_a_name_that_pandas_would_cut_is_refused(desk: Desk) -> None:
    events = [{"user": "ada\0", "item": "i1", "time": 1}]
    (outcome,) = desk.remember([EventsRequest.model_validate({"events": events})])
    assert isinstance(outcome, Refusal)
    assert outcome.status == 422
    assert "holds a NUL byte" in outcome.detail
    assert desk.journal.changes == 0
