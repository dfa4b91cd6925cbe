"""Who is asked for: known users by token, or histories that are given, as rows over a table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_list_like

from recbole_ra.core.errors import RequestError
from recbole_ra.data.table import IntArray, Prefixes, SequenceTable, offsets_of, places
from recbole_ra.inference.tokens import Items, Tokens, as_names, listed
from recbole_ra.prepare.readers import guess_columns

NOW = np.inf
"""Time of a request whose time is not given: after everything that is remembered."""


@dataclass(frozen=True, eq=False)
class Requests:
    """Histories to recommend for.

    Attributes
    ----------
    labels : object array, shape [R]
        What tables say in the column ``user``.
    histories : Prefixes
        ``R`` whole sequences with the ids of their users, 0 if a sequence has none; each position is its
        length.
    times : float64 array, shape [R]
        When each is asked.
    unknown_items : list of str
        Items of the histories that were skipped.
    """

    labels: NDArray[Any]
    histories: Prefixes
    times: NDArray[np.float64]
    unknown_items: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: IntArray | slice) -> Requests:
        return Requests(self.labels[rows], self.histories[rows], self.times[rows], self.unknown_items)

    @classmethod
    def now(cls, histories: Prefixes) -> Requests:
        """Return rows as requests, numbered from 0 on, that are asked after everything is remembered."""
        return cls(np.arange(len(histories)), histories, np.full(len(histories), NOW))

    @classmethod
    def joined(cls, several: Sequence[Requests]) -> Requests:
        """Return all requests of several as one, labelled with their numbers from 0 on."""
        rows = [one.histories for one in several]
        items = [one.table.items[places(one.flat_position - one.position, one.position)] for one in rows]
        table = SequenceTable.from_arrays(
            np.concatenate(items),
            offsets_of(np.concatenate([one.position for one in rows])),
            rows[0].table.n_items,
            users=np.concatenate([one.users for one in rows]),
        )
        whole = Prefixes(table, np.arange(len(table)), table.lengths, rows[0].max_length)
        return cls(np.arange(len(table)), whole, np.concatenate([one.times for one in several]))

    @property
    def cold(self) -> NDArray[np.bool_]:
        """Whether nothing is known of each, shape [R]."""
        return self.histories.position == 0


def of_users(
    users: str | Iterable[object], names: Tokens, table: SequenceTable, max_length: int
) -> tuple[NDArray[Any], Prefixes]:
    """Look up known users, ``all`` or by token; an unknown one has an empty history.

    Raises
    ------
    RequestError
        If ``users`` is neither.
    """
    if isinstance(users, str) and users == "all":
        ids = names.known()
        labels = names.names[ids]
    else:
        labels = as_names(users)
        ids = names.ids(labels)
    return labels, Prefixes(table, ids, table.lengths[ids], max_length)


def of_histories(
    histories: Any, items: Items, users: Tokens, max_length: int, on_unknown_items: str
) -> tuple[NDArray[Any], Prefixes, list[str]]:
    """Read histories that are given: lists of items, a mapping from user to list, or a table.

    A key that is a known user's token is that user: the user's own later memories stay hidden. Lists
    belong to nobody; they are numbered.

    Raises
    ------
    RequestError
        If it is none of these, or an item is unknown and ``on_unknown_items`` is ``error``.
    """
    labels: NDArray[Any]
    if isinstance(histories, pd.DataFrame):
        labels, flat, lengths = _of_table(histories)
    elif isinstance(histories, Mapping):
        labels = as_names(histories)
        flat, lengths = _of_lists(list(histories.values()))
    elif isinstance(histories, str | bytes) or not isinstance(histories, Iterable):
        raise RequestError(
            "histories: must be lists of item tokens, a mapping from user to such a list, or a DataFrame"
        )
    else:
        lists = list(histories)
        if lists and all(isinstance(name, str) for name in lists):
            raise RequestError(f"histories: is one list of items; write [{lists[:3]!r}] for one history")
        labels = np.arange(len(lists))
        flat, lengths = _of_lists(lists)
    ids, unknown = items.require(flat, "histories", on_unknown_items)
    row = np.repeat(np.arange(len(lengths)), lengths)
    kept = ids > 0
    lengths = np.bincount(row[kept], minlength=len(lengths))
    owners = np.zeros(len(lengths), np.int64) if labels.dtype.kind == "i" else users.ids(labels)
    table = SequenceTable.from_arrays(ids[kept], offsets_of(lengths), len(items), users=owners)
    return labels, Prefixes(table, np.arange(len(lengths)), table.lengths, max_length), unknown


def request_times(context: Mapping[str, Any] | None, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Read when each request is asked: ``context["time"]``, one for all or one for each user.

    Returns
    -------
    float64 array, shape [requests]
        :data:`NOW` where it is not given.

    Raises
    ------
    RequestError
        For an unknown entry of the context, or a time that is no number.
    """
    given = dict(context or {})
    time = given.pop("time", NOW)
    if given:
        raise RequestError(f"context: unknown entry '{next(iter(given))}'; there is only 'time'")
    if isinstance(time, Mapping):
        by_name = dict(zip(as_names(time), time.values(), strict=True))
        names = as_names(labels)
        strange = sorted(str(name) for name in by_name.keys() - {*names})
        if strange and not by_name.keys() >= {*names}:
            raise RequestError(f"context: time of {listed(strange)} not asked for, and others have none")
        time = [by_name.get(name, NOW) for name in names]
    column = time if isinstance(time, pd.Series) else pd.Series(time if is_list_like(time) else [time])
    try:
        times = np.broadcast_to(_seconds(column), len(labels))
    except ValueError as error:
        raise RequestError(
            f"context: time must be a number or date, one for each of the {len(labels)} requests, or a "
            "mapping from user to these"
        ) from error
    if np.isnan(times).any():
        raise RequestError(
            "context: time must be a number or ISO date, one for all or one for each, and not NaN"
        )
    return times


def interaction_columns(table: pd.DataFrame, what: str, needed: Iterable[str]) -> dict[str, str]:
    """Find the columns of a table of interactions by their common names.

    Raises
    ------
    RequestError
        If one that is needed is missing.
    """
    header = [str(name) for name in table.columns]
    found = {role: table.columns[header.index(name)] for role, name in guess_columns(header).items()}
    for role in needed:
        if role not in found:
            raise RequestError(
                f"{what}: no column '{role}'; there are {', '.join(header) or 'none'}; rename the one that "
                "holds it"
            )
    return found


def _of_table(table: pd.DataFrame) -> tuple[NDArray[Any], NDArray[np.object_], IntArray]:
    columns = interaction_columns(table, "histories", ("user_id", "item_id"))
    codes, distinct = pd.factorize(as_names(table[columns["user_id"]]))
    keys = [codes]
    if "timestamp" in columns:
        keys.insert(0, times_of(table[columns["timestamp"]], "histories"))
    order = np.lexsort(keys)
    order = order[codes[order] >= 0]  # rows without a user
    lengths = np.bincount(codes[order], minlength=len(distinct))
    return distinct, as_names(table[columns["item_id"]])[order], lengths


def times_of(column: pd.Series, what: str) -> NDArray[np.float64]:
    """Return times as numbers.

    Raises
    ------
    RequestError
        For the first that is none.
    """
    times = _seconds(column)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise RequestError(
            f"{what}: timestamp {column.iloc[bad[0]]!r} (row {bad[0]}) is no number or ISO date; correct it"
        )
    return times


def _seconds(column: pd.Series) -> NDArray[np.float64]:
    """Return numbers as they are and dates as seconds since 1970 (UTC where no zone is said), else NaN."""
    if column.dtype.kind == "M":
        dates = column.dt.tz_convert(None) if column.dt.tz is not None else column
        micro = dates.to_numpy().astype("datetime64[us]")  # of nanoseconds there are 292 years
        return np.where(np.isnat(micro), np.nan, micro.astype(np.int64) / 1e6)
    if column.dtype.kind == "m":
        return np.full(len(column), np.nan)
    if column.dtype == object:
        column = pd.Series([_number(time) for time in column], dtype=object)
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)


def _number(time: object) -> object:
    """Return a date (ISO's, as text) as seconds; what pandas could not read, or would misread, is none."""
    if isinstance(time, str):
        try:
            return float(time)
        except ValueError:
            with contextlib.suppress(ValueError):
                return _number(datetime.fromisoformat(time.strip()))
        return np.nan
    if isinstance(time, date | np.datetime64):
        with contextlib.suppress(ValueError, OverflowError):
            return pd.Timestamp(time).timestamp()  # UTC where it has no zone
        return np.nan
    is_number = not isinstance(time, timedelta | np.timedelta64)
    if isinstance(time, int):  # one beyond every float is an error of pandas
        is_number = time.bit_length() < 1024
    return time if is_number else np.nan


def _of_lists(lists: list[Any]) -> tuple[NDArray[np.object_], IntArray]:
    for place, one in enumerate(lists):
        if isinstance(one, str | bytes) or not isinstance(one, Iterable):
            raise RequestError(f"histories: entry {place} is {one!r}, must be a list of item tokens")
    lists = [list(one) for one in lists]
    lengths = np.array([len(one) for one in lists], dtype=np.int64)
    return as_names(list(chain.from_iterable(lists))), lengths


def refuse_cold(requests: Requests, on_cold_users: str) -> None:
    """Raise RequestError for requests of which nothing is known, unless they get popular items."""
    labels = [str(label) for label in requests.labels[requests.cold]]
    if labels and on_cold_users == "error":
        what = "histories: number" if requests.labels.dtype.kind == "i" else "users:"
        raise RequestError(
            f"{what} {listed(labels)} unknown or without a known item; give a history of known items, or "
            "choose on_cold_users=popular"
        )
