"""Uvicorn, stopped by signals without losing a request."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from recbole_ra.serving.protocol import Protocol


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second signal does not cut short what saves the changes."""
        super().handle_exit(sig, frame)
        self.force_exit = False


def run_server(
    app: ASGIApp, listener: socket.socket, seconds: float, started: Callable[[], None]
) -> int | None:
    """Serve until a signal comes.

    Parameters
    ----------
    app : ASGI application
    listener : socket
        Bound.
    seconds : float
        For the headers of a request. When a signal has come, requests have three times that to end: for
        headers, body and answer.
    started : callable
        Called when it listens.

    Returns
    -------
    int or None
        The last signal.
    """
    config = uvicorn.Config(
        app,
        http=type("Timed", (Protocol,), {"seconds": seconds}),
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(3 * seconds),
    )
    seen: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        seen.append(number)

    # When it has stopped, uvicorn raises the signals again that stopped it.
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _Server(config, started).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return seen[-1] if seen else None
