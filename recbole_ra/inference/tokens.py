"""Names of users and items by their ids, and titles of items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_ra.core.errors import RequestError, nearest
from recbole_ra.data.table import IntArray

PADDING = "[PAD]"
_SHOWN = 5


class Tokens:
    """Names by id. Id 0 is nobody; an id whose name was forgotten has none.

    Parameters
    ----------
    names : sequence of str or None
        The name of each id; the first is not looked at.

    Attributes
    ----------
    hints_below : int
        Among fewer names an unknown one is compared with all, for a hint.
    """

    hints_below = 50_000

    def __init__(self, names: Sequence[str | None]) -> None:
        self.names: NDArray[np.object_] = np.array([PADDING, *names[1:]], dtype=object)
        self._ids = {name: number for number, name in enumerate(self.names) if number and name is not None}

    def __len__(self) -> int:
        """Ids there are, 0 among them."""
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._ids

    @property
    def n_known(self) -> int:
        """Return how many ids have a name."""
        return len(self._ids)

    def ids(self, names: Iterable[object]) -> IntArray:
        """Return the id of each name, 0 for an unknown one; a name that is no text counts as its text."""
        codes, distinct = pd.factorize(as_names(names))
        found = np.fromiter((self._ids.get(name, 0) for name in distinct), np.int64, len(distinct))
        return np.append(found, 0)[codes]

    def known(self) -> IntArray:
        """Return every id that has a name, in order."""
        return np.array(list(self._ids.values()), dtype=np.int64)

    def add(self, names: Iterable[object]) -> None:
        """Give the next ids to names that are not known yet, in the order of their first appearance."""
        new = [name for name in pd.unique(as_names(names)) if name not in self._ids]
        if not new:
            return
        self._ids.update(zip(new, range(len(self), len(self) + len(new)), strict=True))
        self.names = np.concatenate([self.names, np.array(new, dtype=object)])

    def forget(self, number: int) -> None:
        """Drop the name of an id; the id is not given again."""
        self._ids.pop(self.names[number], None)
        self.names = self.names.copy()  # tables that were handed out keep what they say
        self.names[number] = None

    def nearest(self, name: str) -> str:
        """Return a hint at a known name that is written alike, or nothing."""
        return nearest(name, self._ids) if len(self) < self.hints_below else ""


class Items(Tokens):
    """Items by id, with the titles that are known.

    Parameters
    ----------
    names : sequence of str
    titles : mapping of str to str
        Title of a name; others have none.
    """

    def __init__(self, names: Sequence[str | None], titles: Mapping[str, str] | None = None) -> None:
        super().__init__(names)
        known = titles or {}
        self.titles: NDArray[np.object_] | None = None
        if any(name in known for name in self._ids):
            self.titles = np.array([known.get(name) if name else None for name in self.names], dtype=object)

    def title(self, number: int) -> str | None:
        """Return the title of an id, or None."""
        return None if self.titles is None else self.titles[number]

    def label(self, number: int) -> str:
        """Return an item as people read it: its name, and its title where that is known."""
        title = self.title(number)
        return f"{self.names[number]} ({title})" if title else str(self.names[number])

    def require(
        self,
        names: Iterable[object],
        what: str,
        on_unknown: str,
        remedy: str = "leave it out, or choose on_unknown_items=skip",
    ) -> tuple[IntArray, list[str]]:
        """Find the items that a request names.

        Parameters
        ----------
        names : iterable
        what : str
            Where the request names them, for the message.
        on_unknown : {"skip", "error"}
        remedy : str
            What the message advises.

        Returns
        -------
        int64 array, shape [names]
            Ids; 0 for an unknown one.
        list of str
            The unknown ones, each once.

        Raises
        ------
        RequestError
            If one is unknown and ``on_unknown`` is ``error``.
        """
        check_choice("on_unknown_items", on_unknown, ("skip", "error"))
        texts = as_names(names)
        ids = self.ids(texts)
        unknown = [str(name) for name in pd.unique(texts[ids == 0])]
        if unknown and on_unknown == "error":
            raise RequestError(
                f"{what}: {listed(unknown)} not among the {len(self) - 1} items of this recommender"
                f"{self.nearest(unknown[0])}; {remedy}"
            )
        return ids, unknown


def as_names(names: Iterable[object]) -> NDArray[np.object_]:
    """Return names as an array of text; None stays, and whole numbers lose the ``.0`` of pandas."""
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise RequestError(f"{names!r}: must be a list of tokens, not a single one; write [{names!r}]")
    values = names.to_numpy() if isinstance(names, pd.Series) else names
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return values.astype(str).astype(object)
    out = [_text(name) for name in values]
    array = np.empty(len(out), dtype=object)
    array[:] = out
    return array


def _text(name: object) -> str | None:
    if isinstance(name, str):
        if "\0" in name:  # for pandas the text ends there
            raise RequestError(f"{name!r}: holds a NUL byte, which no token does")
        return str(name)
    if name is None or name is pd.NA:
        return None
    if isinstance(name, float | np.floating):
        if np.isnan(name):
            return None
        return str(int(name)) if float(name).is_integer() else str(name)
    if isinstance(name, Iterable):
        raise RequestError(f"{name!r}: must be one token; give a list of tokens")
    return str(name)


def check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
    """Raise RequestError unless one of the choices was given."""
    if given not in choices:
        raise RequestError(f"{name}={given!r} must be one of {', '.join(choices)}")


def listed(names: Sequence[str]) -> str:
    """Return ``'a', 'b' and 3 more are``, or ``'a' is``."""
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
