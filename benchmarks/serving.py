"""Latency and throughput of a server, with real HTTP clients on the same machine.

    python benchmarks/serving.py runs/latest                # 1, 8 and 64 connections, then the long run
    python benchmarks/serving.py runs/latest --hour=36000   # requests of the long run: 10/s for an hour

Requests are POST /recommend of one history of 1 to 50 items each, k=10. The long run mixes them: of 100
requests 90 recommend, 5 explain, 3 similar and 2 add an event; memory is the server's resident set.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from command import start

import recbole_ra

CONNECTIONS = (1, 8, 64)
QUARTERS = 4

Request = tuple[str, bytes]


class Server:
    """A server of a copy of a run, so that the run stays as it is."""

    def __init__(self, run: Path, below: Path) -> None:
        self.run = Path(shutil.copytree(run, below / "run"))
        words = ["-m", "recbole_ra", "serve", str(self.run), "--port=0"]
        self.process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = next(line for line in self.process.stderr if "serving at" in line)
        self.port = int(line.rpartition(":")[2])

    def resident(self) -> float:
        """Megabytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def recommends(items: list[str], seed: int) -> Iterator[Request]:
    rng = np.random.default_rng(seed)
    while True:
        history = rng.choice(items, rng.integers(1, 51)).tolist()
        yield "/recommend", json.dumps({"histories": [history], "k": 10}).encode()


def mixed(items: list[str], seed: int) -> Iterator[Request]:
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        history = rng.choice(items, rng.integers(1, 51)).tolist()
        kind = number % 100
        if kind < 90:
            yield "/recommend", json.dumps({"histories": [history], "k": 10}).encode()
        elif kind < 95:
            yield "/explain", json.dumps({"history": history}).encode()
        elif kind < 98:
            yield "/similar", json.dumps({"item": history[0]}).encode()
        else:
            event = {"user": f"bench-{seed}-{number // 500}", "item": history[0], "time": float(number)}
            yield "/events", json.dumps({"events": [event]}).encode()


def load(
    server: Server, connections: int, total: int, make: Callable[[int], Iterator[Request]]
) -> tuple[list[float], float]:
    """Send requests over some connections as fast as they are answered; latencies, and seconds in all."""
    latencies: list[list[float]] = [[] for _ in range(connections)]
    failures: list[str] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        requests = make(number)
        for path, body in itertools.islice(requests, total // connections):
            started = perf_counter()
            try:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                return
            latencies[number].append(perf_counter() - started)
            if answer.status != 200:
                failures.append(content.decode())
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(connections)]
    started = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = perf_counter() - started
    if failures:
        raise SystemExit(f"a request failed: {failures[0]}")
    return list(itertools.chain.from_iterable(latencies)), seconds


def row(name: str, latencies: list[float], seconds: float) -> str:
    p50, p95, p99 = np.percentile(np.array(latencies) * 1000, [50, 95, 99])
    rate = len(latencies) / seconds
    return f"| {name} | {len(latencies):,} | {rate:,.0f} | {p50:.1f} | {p95:.1f} | {p99:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"))
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--hour", type=int, default=36_000)
    given = parser.parse_args()
    if given.requests < CONNECTIONS[-1] or 0 < given.hour < QUARTERS * CONNECTIONS[1] or given.hour < 0:
        parser.error(f"--requests must be at least {CONNECTIONS[-1]}, --hour 0 (none) or at least 32")
    recommender = recbole_ra.load(given.run)
    items = [str(name) for name in recommender.items.names[1:]]
    sys.setswitchinterval(1e-4)  # else threads of this client wait for each other, and it counts as latency
    print(f"{recommender!r}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as below:
        server = Server(given.run, Path(below))
        try:
            load(server, 8, 200, lambda seed: recommends(items, 100 + seed))  # warm
            print("| connections | requests | requests/s | p50 ms | p95 ms | p99 ms |")
            print("|---|---|---|---|---|---|")
            for connections in CONNECTIONS:
                found = load(server, connections, given.requests, lambda seed: recommends(items, seed))
                print(row(str(connections), *found), flush=True)
            marks = [f"{server.resident():.0f}"]
            latencies: list[float] = []
            seconds = 0.0
            for part in range(QUARTERS if given.hour else 0):
                found = load(
                    server, 8, given.hour // QUARTERS, lambda seed, part=part: mixed(items, 8 * part + seed)
                )
                latencies, seconds = latencies + found[0], seconds + found[1]
                marks.append(f"{server.resident():.0f}")
            if latencies:
                print(row("8, long run, mixed", latencies, seconds))
            print(f"\nresident memory in MB, at the start and after each quarter: {', '.join(marks)}")
        finally:
            server.process.send_signal(signal.SIGTERM)
            print(f"exit code {server.process.wait(60)}")


if __name__ == "__main__":
    start(main)
