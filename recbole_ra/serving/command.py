"""The command ``serve``."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recbole_ra.core.console import say
from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.inference.commands import run_parser
from recbole_ra.inference.files import editing
from recbole_ra.inference.journal import Journal
from recbole_ra.inference.loading import load
from recbole_ra.serving import KEY

NEEDS = ("fastapi", "uvicorn", "prometheus_client")


def serve(words: Sequence[str]) -> int:
    """Serve what a run left until SIGTERM (exit code 0) or SIGINT (130)."""
    parser = run_parser("serve", "Serve what a run left over HTTP.")
    parser.add_argument("--host", default="127.0.0.1", help=f"address; beyond the loopback, {KEY} is needed")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    parser.add_argument("--batch", type=int, default=64, help="requests scored at once (default: 64)")
    parser.add_argument(
        "--window", type=float, default=2, help="milliseconds that one waits for others (default: 2)"
    )
    parser.add_argument(
        "--timeout", type=float, default=10, help="seconds for headers, and for a body (default: 10)"
    )
    given = parser.parse_args(words)
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise RecboleRaError(
            f"serve: {', '.join(missing)} missing; install the extra serve (`make setup-serve`)"
        )
    if given.batch < 1 or not 0 <= given.window <= 1000:
        raise SettingsError("serve: --batch must be at least 1, --window between 0 and 1000")
    if not 0 < given.timeout < float("inf"):
        raise SettingsError("serve: --timeout must be a number of seconds above 0")
    key = api_key()
    with bound(given.host, given.port) as (listener, address, is_loopback):
        if not is_loopback and key is None:
            raise SettingsError(
                f"serve: {address} can be reached from other machines; set {KEY} to a secret, or use "
                "--host=127.0.0.1"
            )

        def busy() -> None:
            raise RecboleRaError(f"{given.run}: another process serves or changes it; stop that one first")

        with editing(given.run, busy) as folder:
            return _serve(folder, given, key, listener, address)


def _serve(
    folder: Path, given: argparse.Namespace, key: str | None, listener: socket.socket, address: str
) -> int:
    from recbole_ra.serving.app import Options, build_app
    from recbole_ra.serving.desk import Desk
    from recbole_ra.serving.gate import LOCAL, Limits
    from recbole_ra.serving.server import run_server

    recommender = load(folder)
    journal = Journal(folder)
    if journal.changes:
        say(f"recbole-ra: {journal.changes} changes were not saved yet; they are part of it again")
    if journal.torn:
        say(f"recbole-ra: {journal.torn} bytes of a change that was never acknowledged are dropped")
    options = Options(
        key=key,
        hosts=(*LOCAL, given.host.lower()) if key is None else None,
        batch=given.batch,
        window=given.window / 1000,
        limits=Limits(seconds=given.timeout),
    )
    desk = Desk(recommender, journal)
    app = build_app(desk, options)
    last = run_server(app, listener, given.timeout, lambda: say(f"{recommender!r}\nserving at {address}"))
    if desk.unsaved is not None:
        raise RecboleRaError(
            f"serve: stopped; the changes are in the journal, of which every command knows, but could not be "
            f"saved: {desk.unsaved}"
        )
    say("recbole-ra: stopped; every change is saved")
    return 128 + signal.SIGINT if last == signal.SIGINT else 0


def api_key() -> str | None:
    """Read the key from the environment.

    Raises
    ------
    SettingsError
        If it cannot be sent in a header.
    """
    key = os.environ.get(KEY)
    if key is None:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{KEY}: must be visible ASCII characters without a space; unset it for no key")
    return key


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[tuple[socket.socket, str, bool]]:
    """Give a bound socket that does not listen yet, its URL, and whether only this machine gets there.

    Raises
    ------
    SettingsError
        If the address is none of this machine's, or taken.
    """
    if not 0 <= port <= 65535:
        raise SettingsError(f"serve: --port={port}: must be from 0 to 65535")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"serve: --host={host} --port={port}: is no address; use --host=127.0.0.1"
        ) from error
    # asyncio answers without Nagle's delay only where the protocol is named.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
        except OSError as error:
            raise SettingsError(f"serve: {host}:{port}: {error}; choose another --port or --host") from error
        found: Any = listener.getsockname()
        name = f"[{found[0]}]" if family == socket.AF_INET6 else found[0]
        yield listener, f"http://{name}:{found[1]}", ipaddress.ip_address(found[0]).is_loopback
