"""Errors of the server: one shape for all (RFC 9457), one line for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
_LONGEST = 300


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})

    def response(self) -> Response:
        """Return it as a response."""
        return Response(problem(self.status, self.detail), self.status, self.headers, MEDIA_TYPE)


def problem(status: int, detail: str) -> bytes:
    """Return the body of an error, with a detail of one line and of bounded length."""
    line = " ".join(detail.split())
    line = line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
    return json.dumps({"title": HTTPStatus(status).phrase, "status": status, "detail": line}).encode()


def of_validation(errors: Sequence[Any]) -> Refusal:
    """Say what the first of pydantic's errors is, and how many there are more."""
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", "")) or "not readable"
        return Refusal(400, f"the body is no JSON: {reason}")
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    what = str(first["msg"]).removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Refusal(422, f"{place}: {what}{more}" if place else f"{what}{more}")
