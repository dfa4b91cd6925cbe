"""Requests that the OpenAPI schema allows and forbids: never a 5xx, and answers as the schema says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CHECKS

from asking import Client
from recbole_ra.serving.app import Options

NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)


@pytest.fixture(scope="module")
def checks() -> list[Any]:
    return CHECKS.get_by_names(list(NAMES))


@pytest.fixture(scope="module")
def served(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(
        Path(shutil.copytree(trained("RaSASRec"), tmp_path_factory.mktemp("fuzz") / "run")), Options()
    )
    yield made
    made.close()


def fuzz(served: Client, checks: list[Any], examples: int) -> int:
    """Send made-up requests to every endpoint; returns how many."""
    (answer,) = served.all(("GET", "/openapi.json", {}))
    schema = schemathesis.openapi.from_dict(answer.json())
    sent = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            made = operation.as_strategy(generation_mode=mode)

            @hypothesis.settings(
                max_examples=examples,
                database=None,
                derandomize=True,
                deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            @hypothesis.given(made)
            def send(case: Any) -> None:
                nonlocal sent
                given = case.as_transport_kwargs(base_url="http://localhost")
                given.pop("cookies", None)
                method, url = given.pop("method"), given.pop("url")
                (reply,) = served.all((method, url, given))
                case.validate_response(schemathesis.Response.from_any(reply, False), checks=checks)
                sent += 1

            try:
                send()
            except (
                hypothesis.errors.Unsatisfiable
            ):  # nothing can be wrong with an endpoint that takes nothing
                assert mode is schemathesis.GenerationMode.NEGATIVE
    return sent


def test_few_requests_of_each_kind(served: Client, checks: list[Any]) -> None:
    assert fuzz(served, checks, 5) > 50


@pytest.mark.slow
def test_many_requests_of_each_kind(served: Client, checks: list[Any]) -> None:
    assert fuzz(served, checks, 300) > 2000
