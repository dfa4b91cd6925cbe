"""The desk keeps what it acknowledged, also where the disk takes no save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import recbole_ra
from recbole_ra.core.errors import RecboleRaError
from recbole_ra.inference import journal as journals
from recbole_ra.inference.journal import Journal
from recbole_ra.serving import desk as desks
from recbole_ra.serving.desk import Desk
from recbole_ra.serving.problems import Refusal
from recbole_ra.serving.schema import EventsRequest, ForgetRequest


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
        known, unknown = desk.forget(asked)
        assert isinstance(known, Refusal)
        assert isinstance(unknown, Refusal)
        assert (known.status, unknown.status) == (503, 404)
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
