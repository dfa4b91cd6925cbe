"""What stands before every endpoint: key, host, sizes, time limits, headers, counts."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recbole_ra.serving import KEY
from recbole_ra.serving.metrics import Metrics
from recbole_ra.serving.problems import Refusal

PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
"""Files of the page, which hold nothing secret."""

LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine for itself."""

_PORT = re.compile(r":\d*$")

OPEN = frozenset({*PAGE, "/health"})
"""Paths that ask for no key."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """What one client may cost.

    Attributes
    ----------
    body : int
        Bytes of a request.
    drained : int
        Bytes of a body that is too long which are read, so that the client reads the answer; of a request
        that is refused for another reason, ``body``.
    seconds : float
        For the whole body; of a request that is refused for another reason than its size, a tenth.
    under_way : int
        Requests with a body that were let in and are not answered yet.
    """

    body: int = 1 << 20
    drained: int = 1 << 26
    seconds: float = 10.0
    under_way: int = 512


class _Gone(Exception):
    """The client hung up."""


class Gate:
    """Admits requests to an application.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    paths : collection of str
        Names for the counts; others count as ``other``.
    key : str or None
        What clients must send as ``Authorization: Bearer KEY``.
    hosts : collection of str or None
        Names that the server may be called by: without a key, a page elsewhere could lead its own name here.
    limits : Limits
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        paths: Collection[str],
        *,
        key: str | None,
        hosts: Collection[str] | None,
        limits: Limits,
    ) -> None:
        self.app, self.metrics, self.paths = app, metrics, frozenset(paths)
        self.key = None if key is None else key.encode()
        self.hosts, self.limits = hosts, limits
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self.metrics.under_way.inc()
        try:
            await self._admitted(scope, receive, sending)
        except Refusal as refusal:
            await refusal.response()(scope, receive, sending)
        except _Gone:
            pass
        finally:
            self.metrics.under_way.dec()
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status or "gone")).inc()
            self.metrics.seconds.labels(path).observe(perf_counter() - started)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] in ("GET", "HEAD"):
            self._check(scope, headers)
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope, headers)
            self._check_body(scope, headers)
        except Refusal as refusal:
            if "expect" not in headers:
                waited = (self.limits.seconds / 10, self.limits.body)
                if refusal.status == 413:  # who may ask, and sends too much
                    waited = (self.limits.seconds, self.limits.drained)
                with contextlib.suppress(Refusal):
                    await self._read(receive, *waited)
            raise
        self._under_way += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._read(receive, self.limits.seconds, self.limits.drained)

        async def again() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": bytes(body), "more_body": False}, None
            return message

        await self.app(scope, again, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise Refusal for who may not ask."""
        host = _PORT.sub("", headers.get("host", ""))
        if self.hosts is not None and host.lower() not in self.hosts:
            raise Refusal(421, f"Host '{host}': without {KEY} only localhost is served")
        if self.key is not None and scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.key):
                raise Refusal(
                    401, "send the API key as 'Authorization: Bearer KEY'", {"WWW-Authenticate": "Bearer"}
                )

    def _check_body(self, scope: Scope, headers: Headers) -> None:
        """Raise Refusal for what can be told before the body is read."""
        if self._under_way >= self.limits.under_way:
            raise Refusal(503, "too many requests wait; try again in a second", {"Retry-After": "1"})
        length = headers.get("content-length", "0")
        if int(length) > self.limits.body if length.isdecimal() else True:
            raise Refusal(
                413, f"the body has {length} bytes, of at most {self.limits.body}; send less at once"
            )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and scope["path"] in self.paths and kind != "application/json":
            raise Refusal(415, "Content-Type must be application/json", {"Accept-Post": "application/json"})

    async def _read(self, receive: Receive, seconds: float, drained: int) -> bytearray | None:
        """Read a body, of one that is too long no more than ``drained`` bytes.

        Raises
        ------
        Refusal
            If it is too long, or takes too long.
        """
        body, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(seconds):
                while more and size <= drained:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    size += len(chunk)
                    if size <= self.limits.body:
                        body += chunk
        except TimeoutError:
            raise Refusal(
                408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}
            ) from None
        if size > self.limits.body:
            raise Refusal(413, f"the body has more than {self.limits.body} bytes; send less at once")
        return body
