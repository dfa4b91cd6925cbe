"""Every mistake of a client gets one line in the one shape, and the server stays up."""

from __future__ import annotations

from typing import Any

import pytest

from asking import Client


def raw(content: bytes) -> dict[str, Any]:
    """A body that is said to be JSON."""
    return {"content": content, "headers": {"content-type": "application/json"}}


EVENT = {"user": "u", "item": "i1", "time": 1}

BAD: list[tuple[int, str, dict[str, Any], str]] = [
    (422, "/recommend", {"json": {"histories": [["no such item"]]}}, "'no such item' is not among the 25"),
    (422, "/recommend", {"json": {"histories": [[]]}}, "histories.0"),
    (422, "/recommend", {"json": {"histories": []}}, "histories"),
    (422, "/recommend", {"json": {"users": ["u1"], "k": 26}}, "there are only 25 items"),
    (422, "/recommend", {"json": {"users": ["u1"], "k": 10**9}}, "k: "),
    (422, "/recommend", {"json": {"users": ["u1"], "k": "3"}}, "k: "),
    (422, "/recommend", {"json": {"users": ["u1"], "k": True}}, "k: "),
    (422, "/recommend", {"json": {"users": ["u1"] * 200, "k": 900}}, "ask for fewer"),
    (422, "/recommend", {"json": {"users": ["u1"] * 257}}, "users"),
    (422, "/recommend", {"json": {"users": ["u1"], "histories": [["i1"]]}}, "one of the two"),
    (422, "/recommend", {"json": {}}, "one of the two"),
    (422, "/recommend", {"json": {"user": ["u1"]}}, "user"),
    (422, "/recommend", {"json": {"users": ["x" * 257]}}, "users.0"),
    (422, "/recommend", {"json": {"users": ["nobody"], "on_cold_users": "error"}}, "'nobody' is unknown"),
    (422, "/recommend", {"json": {"users": ["u1"], "items": ["i1"], "exclude": ["i1"]}}, "leave no item"),
    (422, "/recommend", {"json": [1]}, ""),
    (422, "/recommend", raw(b""), ""),
    (413, "/recommend", {"json": {"histories": [["i1"] * 10**6]}}, "at most 1048576"),
    (422, "/recommend", {"json": {"histories": [["i1"] * 10**5]}}, "histories.0"),
    (400, "/recommend", raw(b'{"users":'), "no JSON"),
    (400, "/recommend", raw(b"\xff\xfe"), ""),
    (400, "/recommend", raw(b"[" * 10**5), ""),
    (400, "/recommend", raw(b'{"k":' + b"9" * 5000 + b"}"), ""),
    (422, "/recommend", raw(b'{"users":["\\ud800"]}'), "users.0"),
    (415, "/recommend", {"content": b"users=u1", "headers": {"content-type": "text/html"}}, "application/j"),
    (415, "/events", {"content": b"{}"}, "application/json"),
    (404, "/similar", {"json": {"item": "no such item"}}, "item: 'no such item' is unknown"),
    (422, "/similar", {"json": {"item": "i1", "k": 25}}, "there are only 24 other items"),
    (404, "/explain", {"json": {"user": "nobody"}}, "user: 'nobody' is unknown"),
    (404, "/explain", {"json": {"history": ["i1"], "item": "nix"}}, "item: 'nix' is unknown"),
    (422, "/explain", {"json": {"history": []}}, "history"),
    (422, "/events", {"json": {"events": []}}, "events"),
    (422, "/events", {"json": {"events": [{"user": "u", "item": "i1", "time": 1}] * 1001}}, "events"),
    (422, "/events", {"json": {"events": [{"user": "u", "item": "i1"}]}}, "events.0.time"),
    (422, "/events", raw(b'{"events":[{"user":"u","item":"i1","time":NaN}]}'), "events.0.time"),
    (422, "/events", {"json": {"events": [dict(EVENT, item="nix")], "on_unknown_items": "error"}}, "'nix'"),
    (422, "/recommend", {"json": {"users": [1] * 200}}, "users.0: Input should be a valid string"),
    (422, "/recommend", {"json": {"histories": [[1] * 9] * 9}}, "histories.0.0: Input should be a"),
    (422, "/recommend", {"json": {str(n): n for n in range(99)}}, "0: no such key; there are users, histor"),
    (404, "/nowhere", {"json": {}}, "/nowhere: no such path"),
    (405, "/health", {"json": {}}, "POST is not answered here"),
    (404, "/recommend/", {"json": {"users": ["u1"]}}, "/recommend/: no such path"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "path", "given", "part"), BAD)
def test_a_mistake_gets_one_line(
    status: int,
    path: str,
    given: dict[str, Any],
    part: str,
    client: Client,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert part in client.refusal(status, "POST", path, **given)
    assert client.all(("GET", "/health", {}))[0].json()["status"] == "ok"
    assert "Traceback" not in capsys.readouterr().err
