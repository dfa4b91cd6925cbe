"""What is turned away, and how: key, host, slow and too many clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from asking import Client
from recbole_ra.serving.app import Options
from recbole_ra.serving.gate import Limits


def test_a_key_is_asked_for_but_for_the_page_and_health(run: Path) -> None:
    client = Client(run, Options(key="secret", hosts=None))
    try:
        body = {"json": {"users": ["u1"]}}
        wrong = ["Bearer no", "secret", "Bearer ä".encode()]
        for headers in ({}, *({"authorization": value} for value in wrong)):
            client.refusal(401, "POST", "/recommend", **body, headers=headers)
        for path in ("/metrics", "/items?search=a", "/openapi.json", "/nowhere"):
            client.refusal(401, "GET", path)
        right = {"authorization": "Bearer secret"}
        answers = client.all(
            ("POST", "/recommend", {**body, "headers": right}), ("GET", "/metrics", {"headers": right}),
            *(("GET", path, {}) for path in ("/", "/page.css", "/page.js", "/health")),
        )  # fmt: skip
        assert [answer.status_code for answer in answers] == [200] * 6
    finally:
        client.close()


def test_without_a_key_no_other_name_leads_here(client: Client) -> None:
    client.refusal(421, "GET", "/health", headers={"host": "evil.example:8000"})
    for host in ("localhost:1", "127.0.0.1", "[::1]:8000", "[::1]"):
        assert client.all(("GET", "/health", {"headers": {"host": host}}))[0].status_code == 200


def test_every_answer_has_the_headers(client: Client) -> None:
    for answer in client.all(("GET", "/", {}), ("GET", "/nowhere", {}), ("POST", "/recommend", {})):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_slow_body_is_given_up(run: Path) -> None:
    client = Client(run, Options(limits=Limits(seconds=0.2)))

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    try:
        headers = {"content-type": "application/json"}
        assert "0.2 s" in client.refusal(408, "POST", "/recommend", content=slowly(), headers=headers)
    finally:
        client.close()


def test_overload_is_said_with_a_time_to_come_back(run: Path) -> None:
    client = Client(run, Options(limits=Limits(under_way=3), window=0.2))
    try:
        answers = client.all(*[("POST", "/recommend", {"json": {"users": ["u1"]}})] * 8)
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [503] * 5
        assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 503} == {"1"}
    finally:
        client.close()


def test_who_has_no_key_takes_nobodys_place(run: Path) -> None:
    """Their bodies never come, and are not waited for as those of others are."""
    client = Client(run, Options(key="secret", hosts=None, limits=Limits(under_way=1, seconds=5)))

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    try:
        headers = {"content-type": "application/json"}
        stranger = ("POST", "/recommend", {"content": never(), "headers": headers})
        mine = (
            "POST",
            "/recommend",
            {"json": {"users": ["u1"]}, "headers": {"authorization": "Bearer secret"}},
        )
        answers = client.all(stranger, mine)
        assert [answer.status_code for answer in answers] == [401, 200]
    finally:
        client.close()


def test_probes_may_ask_for_headers_alone(client: Client) -> None:
    answers = client.all(("HEAD", "/", {}), ("HEAD", "/health", {}))
    assert [answer.status_code for answer in answers] == [200, 200]
