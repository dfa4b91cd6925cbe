"""Requests that the OpenAPI schema allows and forbids: never a 5xx, and answers as the schema says."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CHECKS, load_all_checks

NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


def fuzz(server: Any, examples: int) -> int:
    """Send made-up requests to every endpoint; returns how many were answered."""
    load_all_checks()
    checks = CHECKS.get_by_names(list(NAMES))
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    sent = 0
    for found in schema.get_all_operations():
        for mode in schemathesis.GenerationMode:

            @hypothesis.settings(
                max_examples=examples,
                database=None,
                derandomize=True,
                deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            @hypothesis.given(found.ok().as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                nonlocal sent
                case.call_and_validate(checks=checks)
                sent += 1

            try:
                send()
            except hypothesis.errors.Unsatisfiable:  # of an endpoint that takes nothing
                assert mode is schemathesis.GenerationMode.NEGATIVE
    assert server.ended(signal.SIGTERM) == 0
    assert "Traceback" not in server.said()
    return sent


def test_few_requests_of_each_kind(run: Path, serve: Callable[..., Any]) -> None:
    assert fuzz(serve(run).started(), 5) > 50


@pytest.mark.slow
def test_many_requests_of_each_kind(run: Path, serve: Callable[..., Any]) -> None:
    assert fuzz(serve(run).started(), 200) > 1000
