"""Text for people: shown with the characters that the terminal has, wherever the streams lead."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

# Lines of tables, for terminals without them.
PLAIN = str.maketrans({**{chr(code): "+" for code in range(0x2500, 0x2580)}, **dict.fromkeys("─━═", "-")})
PLAIN |= str.maketrans({**dict.fromkeys("│┃║", "|"), "–": "-", "−": "-", "…": "...", "×": "x"})


def prepare_streams() -> None:
    """Make standard output and error usable: closed ones lead nowhere, what cannot be shown is escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for good
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """Print to standard output, with plain lines where the terminal has no others."""
    print(displayable(text, sys.stdout.encoding or "utf-8"), flush=True)


def displayable(text: str, encoding: str) -> str:
    """Return the text, with ASCII in place of table lines if the encoding lacks them."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(PLAIN)
    return text


def say(line: str) -> None:
    """Print a line to standard error; where that cannot be written to any more, work goes on without."""
    try:
        print(displayable(line, sys.stderr.encoding or "utf-8"), file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


def abandon(stream: TextIO) -> None:
    """Lead a stream nowhere, so that what is left in its buffer raises no error when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
