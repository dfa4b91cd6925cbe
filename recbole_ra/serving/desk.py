"""What the one worker thread does: answers from the recommender, and changes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from time import monotonic
from typing import Any

import pandas as pd

from recbole_ra.core.console import say
from recbole_ra.core.errors import RecboleRaError, RequestError
from recbole_ra.inference.journal import Change, Journal
from recbole_ra.inference.recommender import Recommender
from recbole_ra.inference.requests import Requests
from recbole_ra.inference.selection import Selection
from recbole_ra.inference.tokens import as_names
from recbole_ra.serving.problems import Refusal
from recbole_ra.serving.schema import (
    EventsRequest,
    ExplainRequest,
    ForgetRequest,
    RecommendRequest,
    SimilarRequest,
)

CHANGES = 1000
"""Requests in the journal after which the recommender is saved: what a start after a kill reads again."""

PAUSE = 10
"""Seconds after which a client may ask again, and a change tries again to save who was forgotten."""

HINTS_BELOW = 2000
"""Names that an unknown one is compared with, for a hint, while everybody else waits."""

Outcome = bytes | Refusal
"""JSON, or why there is none."""


CHANGING = frozenset({"remember", "forget"})
"""Methods of a desk that change the recommender."""


@dataclass(frozen=True)
class Counts:
    """What a recommender holds: users, memories (None if it keeps none), changes since it was saved."""

    users: int
    memories: int | None
    changes: int


class Desk:
    """A recommender and its journal, used by one thread.

    Each method takes requests of one kind and returns an outcome for each.

    Parameters
    ----------
    recommender : Recommender
    journal : Journal
        Of its folder; its changes were applied. If they forgot somebody, the recommender is saved at once.

    Attributes
    ----------
    unsaved : Exception or None
        Why the last save failed; what was acknowledged is in the journal all the same.
    """

    def __init__(self, recommender: Recommender, journal: Journal) -> None:
        self.recommender, self.journal = recommender, journal
        self.unsaved: Exception | None = None
        self._save_at = CHANGES
        self._retry_at = -math.inf
        for names in (recommender.users, recommender.items):
            names.hints_below = HINTS_BELOW
        self._owes = journal.forgets  # somebody who was forgotten may be on the disk
        if self._owes:
            self._save()

    def counts(self) -> Counts:
        """Count what the recommender holds."""
        memory = self.recommender.memory
        memories = None if memory is None else len(memory.bank)
        return Counts(self.recommender.users.n_known, memories, self.journal.changes)

    def recommend(self, asked: Sequence[RecommendRequest]) -> list[Outcome]:
        """Score all requests in one pass for each choice of what may be recommended, and how many."""
        outcomes: list[Outcome | None] = [None] * len(asked)
        groups: dict[Any, list[tuple[int, Requests, Selection]]] = {}
        for place, one in enumerate(asked):
            try:
                requests, chosen = self._read(one)
            except RequestError as error:
                outcomes[place] = Refusal(422, str(error))
            else:
                whole = one.items is None and not one.exclude
                allowed = None if whole else chosen.allowed.tobytes()
                key = (chosen.k, chosen.filter_seen, chosen.memories, allowed)
                groups.setdefault(key, []).append((place, requests, chosen))
        for group in groups.values():
            together = Requests.joined([requests for _, requests, _ in group])
            try:
                table = pd.concat(self.recommender.tables(together, group[0][2]), ignore_index=True)
            except RecboleRaError as error:  # too little memory; others may need less
                for place, _, _ in group:
                    outcomes[place] = _later(str(error))
                continue
            rows = _rows(table, len(together))
            start = 0
            for place, requests, chosen in group:
                mine = rows[start : start + len(requests)]
                start += len(requests)
                names = asked[place].users or (None,) * len(mine)
                outcomes[place] = _json(
                    recommendations=[
                        {"user": name, "items": found} for name, found in zip(names, mine, strict=True)
                    ],
                    unknown_items=_unknown(requests, chosen),
                )
        return [outcome for outcome in outcomes if outcome is not None]

    def _read(self, asked: RecommendRequest) -> tuple[Requests, Selection]:
        requests = self.recommender.requests(
            asked.users,
            asked.histories,
            context=None if asked.time is None else {"time": asked.time},
            on_unknown_items=asked.on_unknown_items,
            on_cold_users=asked.on_cold_users,
        )
        chosen = self.recommender.selection(
            asked.k,
            filter_seen=asked.filter_seen,
            items=asked.items,
            exclude=asked.exclude,
            memories=asked.memories,
            on_unknown_items=asked.on_unknown_items,
        )
        return requests, chosen

    def similar(self, asked: Sequence[SimilarRequest]) -> list[Outcome]:
        """Find similar items."""
        return [_outcome(self._similar, one) for one in asked]

    def _similar(self, asked: SimilarRequest) -> bytes:
        self._must_know(asked.item, "item")
        table = self.recommender.similar_items([asked.item], asked.k)
        found = table.drop(columns="item").rename(columns={"similar": "item"})
        return _json(item=asked.item, similar=_records(found))

    def explain(self, asked: Sequence[ExplainRequest]) -> list[Outcome]:
        """Explain recommendations."""
        return [_outcome(self._explain, one) for one in asked]

    def _explain(self, asked: ExplainRequest) -> bytes:
        self._must_know(asked.user, "user")
        self._must_know(asked.item, "item")
        found = self.recommender.explain(
            asked.history,
            user=asked.user,
            item=asked.item,
            filter_seen=asked.filter_seen,
            context=None if asked.time is None else {"time": asked.time},
            on_unknown_items=asked.on_unknown_items,
        )
        return _json(**found.to_dict())

    def _must_know(self, name: str | None, what: str) -> None:
        known = self.recommender.users if what == "user" else self.recommender.items
        if name is not None and name not in known:
            raise Refusal(404, f"{what}: '{name}' is unknown to this recommender")

    def remember(self, asked: Sequence[EventsRequest]) -> list[Outcome]:
        """Write events of all requests to the disk at once, then add them one request after another."""
        read = [self._change(one) for one in asked]
        writable = [change for change in read if isinstance(change, Change) and change.events]
        try:
            self.journal.append(writable)
        except (OSError, RecboleRaError) as error:
            return [_later(f"events cannot be kept: {error}")] * len(asked)
        outcomes = [self._add(one, change) for one, change in zip(asked, read, strict=True)]
        if self.journal.changes >= self._save_at or (self._owes and monotonic() >= self._retry_at):
            self._save()
        return outcomes

    def _change(self, asked: EventsRequest) -> Change | Refusal:
        """Keep what is known of the events, so that the journal reads as it was applied."""
        events = asked.events
        try:
            as_names(event.user for event in events)
            ids, _ = self.recommender.items.require(
                [event.item for event in events], "events", asked.on_unknown_items
            )
        except RequestError as error:
            return Refusal(422, str(error))
        known = (event for event, number in zip(events, ids, strict=True) if number)
        return Change(tuple((event.user, event.item, event.time) for event in known))

    def _add(self, asked: EventsRequest, change: Change | Refusal) -> Outcome:
        if isinstance(change, Refusal):
            return change
        done = asdict(self.recommender.add(change.events))
        unknown = dict.fromkeys(
            event.item for event in asked.events if event.item not in self.recommender.items
        )
        return _json(**{**done, "unknown_items": list(unknown)})

    def forget(self, asked: Sequence[ForgetRequest]) -> list[Outcome]:
        """Erase users, from the journal too: the recommender is saved before it is said."""
        outcomes = [_outcome(self._forget, one) for one in asked]
        self._save()
        if self.unsaved is None:
            return outcomes
        kept = _later(f"erased from what is served, but not from the disk yet: {self.unsaved}")
        # Who asks again would take 404 for the end of it.
        return [
            outcome if isinstance(outcome, Refusal) and outcome.status != 404 else kept
            for outcome in outcomes
        ]

    def _forget(self, asked: ForgetRequest) -> bytes:
        self._must_know(asked.user, "user")
        try:
            self.journal.append([Change(forgotten=asked.user)])
        except (OSError, RecboleRaError) as error:
            raise _later(f"the user cannot be erased: {error}") from error
        self._owes = True
        return _json(memories=self.recommender.forget(asked.user))

    def _save(self) -> None:
        """Save what the journal holds; if that fails it stays there, and a later change tries again."""
        try:
            self.journal.compact(self.recommender)
        except Exception as error:  # whatever it is: what was acknowledged stays so
            if self.unsaved is None:
                say(f"recbole-ra: changes are kept in the journal, but cannot be saved: {error}")
            self.unsaved, self._save_at = error, self.journal.changes + CHANGES
            self._retry_at = monotonic() + PAUSE
        else:
            self.unsaved, self._save_at, self._owes = None, CHANGES, False

    def close(self) -> None:
        """Save what the journal holds."""
        try:
            self._save()
        finally:
            self.journal.close()


def _later(why: str) -> Refusal:
    return Refusal(503, why, {"Retry-After": str(PAUSE)})


def _outcome(answer: Callable[[Any], bytes], asked: Any) -> Outcome:
    try:
        return answer(asked)
    except Refusal as refusal:
        return refusal
    except RequestError as error:
        return Refusal(422, str(error))


def _unknown(requests: Requests, chosen: Selection) -> list[str]:
    """Return every item that was skipped, once."""
    return list(dict.fromkeys([*requests.unknown_items, *chain(*chosen.unknown_items.values())]))


def _rows(table: pd.DataFrame, n: int) -> list[list[dict[str, Any]]]:
    """Split a table of recommendations by its numbered users."""
    rows: list[list[dict[str, Any]]] = [[] for _ in range(n)]
    for user, record in zip(table["user"], _records(table.drop(columns="user")), strict=True):
        rows[user].append(record)
    return rows


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in zip(table.columns, row, strict=True) if value is not None}
        for row in zip(*(table[name].tolist() for name in table.columns), strict=True)
    ]


def _plain(value: Any) -> Any:
    """Turn NaN, which JSON lacks, into null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _json(**values: Any) -> bytes:
    return json.dumps(_plain(values), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
