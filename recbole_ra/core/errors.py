"""Errors that a user can act on.

Every fault that a user can cause raises one of these. The command line prints the message as one
line on stderr and exits with code 2; as a library the exception reaches the caller unchanged.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class RecboleRaError(Exception):
    """Base of all errors that name a user's mistake and its remedy."""


class SettingsError(RecboleRaError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(RecboleRaError):
    """An input file or data set cannot be used as it is."""


class CheckpointError(RecboleRaError):
    """A saved model, bank or artifact is damaged or belongs to something else."""


class RequestError(RecboleRaError):
    """A recommender is asked for something that it cannot answer as it is asked."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string.

    Parameters
    ----------
    name : str
        What the user wrote.
    known : iterable of str
        All valid names; compared without regard to case.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


@contextlib.contextmanager
def explain_memory_errors() -> Iterator[None]:
    """Turn the many ways of NumPy and torch to say "not enough memory" into one clear line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        signs = (
            "allocate",
            "out of memory",
            "Storage size calculation overflowed",
            "Overflow when unpacking",
        )
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in signs):
            raise
        raise RecboleRaError(
            f"not enough memory ({reason}); lower hidden_size, inner_size, MAX_ITEM_LIST_LENGTH or a "
            "batch size"
        ) from error
