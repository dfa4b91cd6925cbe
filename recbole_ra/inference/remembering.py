"""New interactions and erased users: histories and memories change, weights do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recbole_ra.core.errors import RequestError
from recbole_ra.data.table import IntArray, Prefixes, SequenceTable, offsets_of, places
from recbole_ra.inference.requests import Requests, interaction_columns, times_of
from recbole_ra.inference.scoring import ROWS
from recbole_ra.inference.tokens import as_names, listed
from recbole_ra.prepare.readers import guess_columns
from recbole_ra.retrieval.bank import memories_of

if TYPE_CHECKING:
    from recbole_ra.inference.recommender import Recommender


@dataclass(frozen=True)
class Added:
    """How many of the given events were added, and why the others were not.

    Attributes
    ----------
    events : int
        New ones, now in the histories.
    known : int
        Left out because they were there before.
    memories : int
        Made of them: of every one but a user's first, if the model remembers.
    new_users : int
    unknown_items : tuple of str
        Items that the model does not know; their events were left out.
    """

    events: int
    known: int
    memories: int
    new_users: int
    unknown_items: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return one line for people."""
        parts = [
            f"interactions: {self.events} new, {self.known} known before",
            f"users: {self.new_users} new",
            f"memories: {self.memories} new",
        ]
        if self.unknown_items:
            names = list(self.unknown_items)
            parts.append(
                f"left out: {listed(names)} unknown to the model, which has to be trained for new items"
            )
        return "; ".join(parts)


def add_events(recommender: Recommender, interactions: Any, on_unknown_items: str) -> Added:
    """Append events to histories, and memories of them; see :meth:`Recommender.add`."""
    names, items, times = _read(interactions)
    ids, unknown = recommender.items.require(items, "interactions", on_unknown_items)
    known_item = ids > 0
    names, ids, times = names[known_item], ids[known_item], times[known_item]
    users = recommender.users
    owners = users.ids(names)
    codes, new_names = pd.factorize(names[owners == 0])
    owners[owners == 0] = len(users) + codes

    events = pd.DataFrame({"user": owners, "item": ids, "time": times})
    there = _were_before(recommender.histories, events)
    events = events[~there].sort_values(["user", "time"], kind="stable")
    table, rows = _appended(recommender.histories, events, len(users) + len(new_names))
    prefixes = Prefixes(table, events["user"].to_numpy(), rows, recommender.scorer.max_length)
    prefixes = prefixes[np.flatnonzero(prefixes.position)]
    memory = recommender.memory
    if memory is not None and len(prefixes):
        memory.remember(keys=_encoded(recommender, memory.base, prefixes), **memories_of(prefixes))
    users.add(new_names)
    recommender.histories = table
    return Added(
        events=len(events),
        known=int(there.sum()),
        memories=0 if memory is None else len(prefixes),
        new_users=len(new_names),
        unknown_items=tuple(unknown),
    )


def forget_user(recommender: Recommender, user: object) -> int:
    """Remove history, memories and name of a user; see :meth:`Recommender.forget`."""
    name = as_names([user])[0]
    number = int(recommender.users.ids([name])[0])
    if not number:
        raise RequestError(
            f"forget: {listed([str(name)])} not among the users of this recommender"
            f"{recommender.users.nearest(str(name))}; there is nothing to forget"
        )
    table = recommender.histories
    lengths = table.lengths.copy()
    kept = np.ones(len(table.items), np.bool_)
    kept[table.offsets[number] : table.offsets[number + 1]] = False
    lengths[number] = 0
    assert table.times is not None, "histories have times"
    recommender.histories = SequenceTable.from_arrays(
        table.items[kept], offsets_of(lengths), table.n_items, times=table.times[kept]
    )
    recommender.users.forget(number)
    memory = recommender.memory
    if memory is None:
        return 0
    removed = memory.bank.remove_owner(number)
    memory.set_bank(memory.bank)
    return removed


def _read(interactions: Any) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.float64]]:
    """Users, items and times of events, as a table or as tuples.

    Raises
    ------
    RequestError
        If something is missing.
    """
    if not isinstance(interactions, pd.DataFrame):
        if isinstance(interactions, str | bytes) or not isinstance(interactions, Iterable):
            raise RequestError("interactions: must be a DataFrame, or (user, item, timestamp) tuples")
        rows = list(interactions)
        if not all(isinstance(row, tuple | list) and len(row) == 3 for row in rows):
            raise RequestError("interactions: must be a DataFrame, or (user, item, timestamp) tuples")
        interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"], dtype=object)
    header = [str(name) for name in interactions.columns]
    if "position" in header and "timestamp" not in guess_columns(header):
        interactions = interactions.rename(
            columns={interactions.columns[header.index("position")]: "timestamp"}
        )
    columns = interaction_columns(interactions, "interactions", ("user_id", "item_id", "timestamp"))
    users, items = (as_names(interactions[columns[role]]) for role in ("user_id", "item_id"))
    for role, values in (("user", users), ("item", items)):
        bad = np.flatnonzero((values == None) | (values == ""))  # noqa: E711  # elementwise
        if len(bad):
            raise RequestError(f"interactions: row {bad[0]} has no {role}; complete or remove it")
    return users, items, times_of(interactions[columns["timestamp"]], "interactions")


def _were_before(table: SequenceTable, events: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which events are known: from the histories, or from an earlier row; shape [events]."""
    owners = np.unique(events["user"].to_numpy())
    owners = owners[owners < len(table)]
    place = places(table.offsets[owners], table.lengths[owners])
    assert table.times is not None, "histories have times"
    before = pd.DataFrame(
        {
            "user": np.repeat(owners, table.lengths[owners]),
            "item": table.items[place].astype(np.int64),
            "time": table.times[place],
        }
    )
    joined = pd.concat([before, events], ignore_index=True)
    return joined.duplicated().to_numpy()[len(before) :]


def _appended(table: SequenceTable, events: pd.DataFrame, n_users: int) -> tuple[SequenceTable, IntArray]:
    """Append events, sorted by user, to their users' sequences; return each event's position too."""
    owners = events["user"].to_numpy()
    before = np.zeros(n_users, np.int64)
    before[: len(table)] = table.lengths
    more = np.bincount(owners, minlength=n_users)
    offsets = offsets_of(before + more)
    old, new = places(offsets[:-1], before), places(offsets[:-1] + before, more)
    items = np.empty(offsets[-1], table.items.dtype)
    times = np.empty(offsets[-1], np.float64)
    items[old], items[new] = table.items, events["item"]
    times[old], times[new] = table.times, events["time"]
    return SequenceTable.from_arrays(items, offsets, table.n_items, times=times), new - offsets[owners]


@torch.no_grad()
def _encoded(recommender: Recommender, encoder: Any, prefixes: Prefixes) -> NDArray[np.float32]:
    """Encode prefixes as the memories of the bank were, shape [rows, D]."""
    keys = []
    for first in range(0, len(prefixes), ROWS):
        rows = prefixes[slice(first, first + ROWS)]
        interaction = recommender.scorer.interaction(Requests.now(rows))
        keys.append(encoder.represent(interaction).cpu().numpy())
    return np.concatenate(keys)
