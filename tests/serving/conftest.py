"""Servers of a small trained run: in this process for contracts, as a process of their own for the rest."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from matplotlib.figure import Figure

import recbole_ra
from asking import Client
from recbole_ra.serving.app import Options
from serving_runs import EVIL, REPO
from walks import leave_undrawn, settings_below, write_walks


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Trains a model once in the session; gives the folder of its run, read only."""
    below = tmp_path_factory.mktemp("serving")

    @functools.cache
    def of(model: str) -> Path:
        data = write_walks(below / model / "data", users=40, items=25)
        titles = [f"i{i}\t{EVIL if i == 1 else f'Film {i}'}" for i in range(25)]
        (data / "walks" / "walks.item").write_text(
            "\n".join(["item_id:token\tmovie_title:token_seq", *titles])
        )
        settings = settings_below(below / model, data)
        settings |= {"epochs": 2, "raft_epochs": 1, "MAX_ITEM_LIST_LENGTH": 6, "say": lambda line: None}
        if model.removeprefix("Ra") == "NARM":
            settings = {
                k: v for k, v in settings.items() if k not in ("hidden_size", "inner_size", "n_layers")
            }
        with mock.patch.object(Figure, "savefig", leave_undrawn):
            return Path(recbole_ra.run(model, **settings).folder)

    return of


@pytest.fixture
def run(trained: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the run of RaSASRec, to be changed."""
    return Path(shutil.copytree(trained("RaSASRec"), tmp_path / "run"))


@pytest.fixture
def client(run: Path) -> Iterator[Client]:
    """A client of RaSASRec."""
    made = Client(run, Options())
    yield made
    made.close()


class Server:
    """``recbole-ra serve`` as a process."""

    def __init__(self, run: Path, *words: str, **environment: str) -> None:
        self.run, self.log = run, run.parent / f"serve-{time.monotonic_ns()}.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recbole_ra", "serve", str(run), "--port=0", *words],
                cwd=REPO,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stdout=log,
                stderr=log,
            )
        self.url = ""

    def started(self) -> Server:
        """Wait until it listens."""
        end = time.monotonic() + 60
        while "serving at " not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)
        self.url = self.said().partition("serving at ")[2].split()[0]
        return self

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)

    def said(self) -> str:
        return self.log.read_text()

    def ended(self, number: int | None = None) -> int:
        """Send a signal, if one is given, and wait for the exit code."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers, which are gone when the test is over."""
    servers: list[Server] = []

    def start(run: Path, *words: str, **environment: str) -> Server:
        servers.append(Server(run, *words, **environment))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
