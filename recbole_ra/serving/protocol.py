"""HTTP with a time limit for headers, and errors in the one shape."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from recbole_ra.serving.problems import MEDIA_TYPE, problem


class Protocol(H11Protocol):
    """Uvicorn's protocol, which by itself waits for headers for ever."""

    seconds = 10.0
    """For the headers of a request, from the connection or the answer before it, and for what is left of one
    that is answered."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        if self._waiting is not None:
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        """Read, and see whether the headers are there."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """Wait for the next request on the same connection."""
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        # An answer may come before the end of a request: what is left of that is waited for, too.
        waits = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if waits and not self.transport.is_closing():
            self._waiting = self._waiting or self.loop.call_later(self.seconds, self._too_late)
        elif self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse(408, f"the headers did not arrive within {self.seconds:g} s")
        else:  # nothing was asked
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(400, msg)

    def _refuse(self, status: int, detail: str) -> None:
        body = problem(status, detail)
        headers = [
            ("Content-Type", MEDIA_TYPE),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            reason = HTTPStatus(status).phrase
            for event in (
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
