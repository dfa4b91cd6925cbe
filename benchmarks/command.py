"""What the benchmarks share: settings among their words, and a user's mistake in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_ra.cli import parse_settings
from recbole_ra.core.errors import RecboleRaError
from recbole_ra.settings.files import read_files


def read_settings(words: Sequence[str], **defaults: Any) -> dict[str, Any]:
    """Return the settings that words and files of ``--config_files`` give; words come before files."""
    settings, files = parse_settings(words)
    return {**defaults, **read_files(files), **settings}


def start(main: Callable[[], None]) -> None:
    """Run a benchmark; a mistake that its user can mend is one line and exit code 2."""
    try:
        main()
    except RecboleRaError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
