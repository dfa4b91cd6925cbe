"""The server as a process: kills, signals, second servers, slow clients, addresses, keys."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import recbole_ra
from recbole_ra.cli import main

Serve = Callable[..., Any]


def histories(run: Path) -> dict[str, list[str]]:
    """Items of every user, in order."""
    loaded = recbole_ra.load(run)
    table, names = loaded.histories, loaded.items.names
    spans = zip(table.offsets[:-1], table.offsets[1:], strict=True)
    rows = [names[table.items[first:last]].tolist() for first, last in spans]
    return {str(name): row for name, row in zip(loaded.users.names, rows, strict=True) if name}


def test_nothing_acknowledged_is_lost_by_a_kill_under_load(run: Path, serve: Serve) -> None:
    acknowledged: dict[str, list[str]] = {}
    wrong: list[str] = []

    def client(url: str, name: str) -> None:
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as session:
            for number in range(10_000):
                item = f"i{(7 * number) % 25}"
                body = {"events": [{"user": name, "item": item, "time": float(number)}]}
                try:
                    answer = session.post("/events", json=body)
                except httpx.TransportError:
                    return
                if answer.status_code != 200 or answer.json()["events"] != 1:
                    wrong.append(answer.text)  # an assertion in a thread would be lost
                    return
                acknowledged.setdefault(name, []).append(item)

    for round_ in range(2):
        server = serve(run).started()
        threads = [threading.Thread(target=client, args=(server.url, f"kill-{round_}-{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        assert server.ended(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(acknowledged) == 8

    def check() -> None:
        kept = histories(run)
        for name, items in acknowledged.items():
            # What was written when the kill came may be there without having been acknowledged.
            assert kept[name][: len(items)] == items
            assert len(kept[name]) <= len(items) + 1

    check()  # every command sees them, without a server
    server = serve(run).started()
    assert "changes were not saved yet" in server.said()
    assert server.ended(signal.SIGTERM) == 0
    assert not (run / "model" / "journal.jsonl").exists()
    check()


def test_what_was_torn_is_dropped_and_said(run: Path, serve: Serve) -> None:
    journal = run / "model" / "journal.jsonl"
    server = serve(run).started()
    with server.client() as client:
        client.post("/events", json={"events": [{"user": "ada", "item": "i1", "time": 1}]})
    server.ended(signal.SIGKILL)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[:-5])
    server = serve(run).started()
    assert f"{len(whole) - 5} bytes of a change that was never acknowledged are dropped" in server.said()
    assert journal.read_bytes() == whole
    server.ended(signal.SIGKILL)
    journal.write_bytes(b"0" + whole[1:] + whole)
    server = serve(run)
    assert server.ended() == 2
    assert server.said().startswith(f"recbole-ra: {journal}: line 1 is damaged; ")
    assert server.said().count("\n") == 1


def test_a_save_that_a_kill_cut_short_is_mended(run: Path, serve: Serve) -> None:
    (run / "model").rename(run / ".model.123.old")
    (run / ".model.123.tmp").mkdir()
    server = serve(run).started()
    assert server.ended(signal.SIGTERM) == 0
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".model")) == [".model.lock"]
    assert recbole_ra.load(run).memory is not None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_answers_what_was_asked_and_saves(number: int, code: int, run: Path, serve: Serve) -> None:
    server = serve(run, "--window=500").started()
    answers: list[httpx.Response] = []

    def ask() -> None:
        with server.client() as client:
            answers.append(
                client.post("/events", json={"events": [{"user": "ada", "item": "i1", "time": 1}]})
            )

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.25)  # it waits for others
    assert server.ended(number) == code
    thread.join()
    assert [answer.status_code for answer in answers] == [200]
    assert server.said().splitlines()[-1] == "recbole-ra: stopped; every change is saved"
    assert "Traceback" not in server.said()
    assert not (run / "model" / "journal.jsonl").exists()
    assert histories(run)["ada"] == ["i1"]


def test_one_process_changes_a_run(run: Path, serve: Serve) -> None:
    first = serve(run).started()
    second = serve(run)
    assert second.ended() == 2
    assert second.said() == (
        f"recbole-ra: {run}: another process serves or changes it; stop that one first\n"
    )
    with first.client() as client:
        assert client.get("/health").status_code == 200


def test_slow_and_broken_clients_are_given_up_and_the_others_served(run: Path, serve: Serve) -> None:
    server = serve(run, "--timeout=1").started()
    place = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    said = {
        b"GET /health HT": 408,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ": 408,
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{": 408,
        b"\x16\x03\x01 what is this\r\n\r\n": 400,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000: 400,
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Connection: close\r\n\r\n": 200,
    }
    clients = [(socket.create_connection(place), text) for text in said]
    for client, text in clients:
        client.sendall(text)
    with server.client() as client:
        assert client.post("/recommend", json={"users": ["u1"]}).status_code == 200
    for client, text in clients:
        client.settimeout(5)
        answer = b"".join(iter(lambda c=client: c.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % said[text]), (text[:60], answer[:200])
        if said[text] >= 400:
            assert json.loads(body)["status"] == said[text]
        client.close()
    idle = socket.create_connection(place)
    idle.settimeout(5)
    assert idle.recv(100) == b""  # nothing was asked, so nothing is said
    early = socket.create_connection(place)
    early.settimeout(5)
    early.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
    assert early.recv(65536).startswith(b"HTTP/1.1 200 ")
    early.sendall(b"x")  # and the rest never
    while early.recv(65536):  # raises if nobody ends it
        pass
    assert "Traceback" not in server.said()


def test_a_body_that_is_too_long_is_answered_to_real_clients(run: Path, serve: Serve) -> None:
    server = serve(run).started()
    with server.client() as client:
        answer = client.post("/recommend", json={"histories": [["i1"] * 10**6]})
        assert answer.status_code == 413
        assert client.get("/health").status_code == 200


def test_beyond_the_loopback_a_key_is_needed(run: Path, serve: Serve) -> None:
    server = serve(run, "--host=0.0.0.0")
    assert server.ended() == 2
    assert server.said().count("\n") == 1
    assert "set RECBOLE_RA_API_KEY to a secret" in server.said()
    server = serve(run, "--host=0.0.0.0", RECBOLE_RA_API_KEY="secret").started()
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{url}/metrics", trust_env=False).status_code == 401
    headers = {"Authorization": "Bearer secret", "Host": "recs.example"}
    assert httpx.get(f"{url}/metrics", headers=headers, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("words", "key", "part"),
    [
        (["--port=70000"], None, "--port=70000"),
        (["--host=no.such.host.invalid"], None, "is no address"),
        (["--host=192.0.2.1"], None, "choose another"),
        (["--batch=0"], None, "--batch"),
        (["--window=-1"], None, "--window"),
        (["--timeout=0"], None, "--timeout"),
        ([], "", "RECBOLE_RA_API_KEY: must be visible"),
        ([], "se cret", "RECBOLE_RA_API_KEY: must be visible"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    key: str | None,
    part: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if key is not None:
        monkeypatch.setenv("RECBOLE_RA_API_KEY", key)
    assert main(["serve", str(run), "--port=0", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line


def test_a_port_that_is_taken_and_a_run_that_is_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", str(run), f"--port={other.getsockname()[1]}"]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "nowhere"), "--port=0"]) == 2
    assert "no such run folder" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_that_may_not_be_written_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model").chmod(0o500)
    assert main(["serve", str(run), "--port=0"]) == 2
    assert "no permission" in capsys.readouterr().err
    (run / "model").chmod(0o700)
    shutil.rmtree(run)
