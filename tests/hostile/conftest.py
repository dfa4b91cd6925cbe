"""One interpreter for all cases, and a summary by kind at the end.

With ``HOSTILE_SUMMARY=FILE`` in the environment the summary is written there as Markdown, too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostile.arena import Arena
from hostile.nursery import Nursery

KINDS = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def arena(nursery: Nursery, tmp_path: Path) -> Arena:
    folder = tmp_path / "arena"
    folder.mkdir()
    return Arena(folder, nursery)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies here as slow, and remember the kind of each case."""
    here = Path(__file__).parent
    config.stash[KINDS] = {}
    for item in items:
        if item.path.parent == here:
            case = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
            config.stash[KINDS][item.nodeid] = getattr(case, "kind", item.path.stem.removeprefix("test_"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print cases and failures by kind."""
    kinds = config.stash.get(KINDS, {})
    counts: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if getattr(report, "nodeid", None) in kinds:
                counts[kinds[report.nodeid], outcome] += 1
                seconds[kinds[report.nodeid]] += report.duration
    found = sorted({kind for kind, _ in counts})
    if not found:
        return
    lines = ["| kind | cases | failed | skipped | seconds |", "|---|---:|---:|---:|---:|"]
    total = [0, 0, 0, 0.0]
    for kind in found:
        failed = counts[kind, "failed"] + counts[kind, "error"]
        skipped = counts[kind, "skipped"]
        row = [counts[kind, "passed"] + failed + skipped, failed, skipped, seconds[kind]]
        total = [before + more for before, more in zip(total, row, strict=True)]
        lines.append(f"| {kind} | {row[0]} | {row[1]} | {row[2]} | {row[3]:.0f} |")
    lines.append(f"| all | {total[0]} | {total[1]} | {total[2]} | {total[3]:.0f} |")
    terminalreporter.section("hostile cases by kind")
    terminalreporter.write_line("\n".join(lines))
    if "HOSTILE_SUMMARY" in os.environ:
        Path(os.environ["HOSTILE_SUMMARY"]).write_text("\n".join(lines) + "\n")
