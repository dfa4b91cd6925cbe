"""A trained model as a recommender: recommends, explains, remembers, forgets, and is exported."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_ra.core.errors import CheckpointError, RecboleRaError, RequestError, explain_memory_errors
from recbole_ra.core.store import MANIFEST
from recbole_ra.data.table import IntArray, SequenceTable
from recbole_ra.inference.about import About
from recbole_ra.inference.explanation import Explanation, explain
from recbole_ra.inference.export import export
from recbole_ra.inference.files import editing, save_recommender
from recbole_ra.inference.journal import on_disk
from recbole_ra.inference.remembering import Added, add_events, forget_user
from recbole_ra.inference.requests import Requests, of_histories, of_users, refuse_cold, request_times
from recbole_ra.inference.scoring import Scorer
from recbole_ra.inference.selection import Selection, recommendations
from recbole_ra.inference.similar import item_vectors, similar
from recbole_ra.inference.tokens import Items, Tokens, check_choice
from recbole_ra.retrieval.recommender import RetrievalRecommender


class Recommender:
    """A trained model that recommends, read from a run's folder by :func:`recbole_ra.load`.

    Users and items are tokens, as in the data; titles stand beside the items where they are known.

    Attributes
    ----------
    about : About
        Model, data set, settings and versions.
    items : Items
    users : Tokens
    histories : SequenceTable
        Whole histories; sequence ``u`` is that of the user of id ``u``. It is empty for id 0, which is no
        user, and for forgotten users.
    folder : Path or None
        Where it was loaded from, and is saved to.
    on_disk : (str, int) or None
        What :func:`recbole_ra.inference.journal.on_disk` said of it when it was loaded or saved.
    """

    def __init__(
        self,
        about: About,
        scorer: Scorer,
        items: Items,
        users: Tokens,
        histories: SequenceTable,
        folder: Path | None = None,
    ) -> None:
        self.about = about
        self.scorer = scorer
        self.items = items
        self.users = users
        self.histories = histories
        self.folder = folder
        self.on_disk: tuple[str, int] | None = None
        self._counted: tuple[SequenceTable, IntArray] | None = None
        scorer.model.eval()

    def __repr__(self) -> str:
        memories = "" if self.memory is None else f", {len(self.memory.bank)} memories"
        return (
            f"<Recommender {self.about.model} on {self.about.dataset}: {len(self.users.known())} users, "
            f"{len(self.items) - 1} items{memories}>"
        )

    @property
    def memory(self) -> RetrievalRecommender | None:
        """The part that retrieves, or None if the model remembers nothing."""
        model = self.scorer.model
        return model if isinstance(model, RetrievalRecommender) else None

    @property
    def popularity(self) -> IntArray:
        """Interactions of each item in the histories, shape [items]; counted anew when these have changed."""
        if self._counted is None or self._counted[0] is not self.histories:
            self._counted = self.histories, np.bincount(self.histories.items, minlength=len(self.items))
        return self._counted[1]

    def requests(
        self,
        users: str | Iterable[object] | None = None,
        histories: Any = None,
        *,
        context: Mapping[str, Any] | None = None,
        on_unknown_items: str = "skip",
        on_cold_users: str = "popular",
    ) -> Requests:
        """Read who is asked for; parameters and errors as in :meth:`recommend`."""
        check_choice("on_cold_users", on_cold_users, ("popular", "error"))
        check_choice("on_unknown_items", on_unknown_items, ("skip", "error"))
        if (users is None) == (histories is None):
            raise RequestError("give users or histories, one of the two; users='all' are all that are known")
        length, unknown = self.scorer.max_length, list[str]()
        if users is not None:
            labels, rows = of_users(users, self.users, self.histories, length)
        else:
            labels, rows, unknown = of_histories(histories, self.items, self.users, length, on_unknown_items)
        found = Requests(labels, rows, request_times(context, labels), unknown)
        refuse_cold(found, on_cold_users)
        return found

    def selection(
        self,
        k: int = 10,
        *,
        filter_seen: bool = True,
        items: Iterable[object] | None = None,
        exclude: Iterable[object] | None = None,
        memories: bool = True,
        on_unknown_items: str = "skip",
    ) -> Selection:
        """Read what may be recommended; parameters and errors as in :meth:`recommend`."""
        given = {what: names for what, names in (("items", items), ("exclude", exclude)) if names is not None}
        read = {what: self.items.require(names, what, on_unknown_items) for what, names in given.items()}
        ids = {what: numbers for what, (numbers, _) in read.items()}
        unknown = {what: names for what, (_, names) in read.items()}
        return Selection.of(
            self.items, k, filter_seen, ids.get("items"), ids.get("exclude"), memories, unknown
        )

    def recommend(
        self,
        users: str | Iterable[object] | None = None,
        histories: Any = None,
        k: int = 10,
        *,
        filter_seen: bool = True,
        items: Iterable[object] | None = None,
        exclude: Iterable[object] | None = None,
        memories: bool = True,
        context: Mapping[str, Any] | None = None,
        on_unknown_items: str = "skip",
        on_cold_users: str = "popular",
    ) -> pd.DataFrame:
        """Recommend items.

        Parameters
        ----------
        users : "all" or iterable of tokens
            Known users; their whole histories are looked at, the last item too.
        histories : instead of users
            Lists of item tokens, oldest first; a mapping from user to such a list; or a DataFrame of
            interactions with columns for user, item and perhaps timestamp (RecBole's names or common ones).
            They are taken as they are: what is known of a user of that name is not added.
        k : int
            Items for each; fewer only where a request leaves fewer.
        filter_seen : bool
            Leave out what is in the history.
        items, exclude : iterable of tokens
            Recommend none but these; none of these.
        memories : bool
            Look at what is remembered; without, the backbone's state is scored as it is.
        context : mapping
            ``{"time": …}``: when it is asked, one number for all, one for each request, or a mapping from
            user to number; with ``memory_scope=past`` nothing newer is looked at. By default: now, after
            everything that is remembered.
        on_unknown_items : {"skip", "error"}
            For items of histories, ``items`` and ``exclude`` that the model does not know.
        on_cold_users : {"popular", "error"}
            For those without a known item: the most popular items, without a score (NaN), or an error.

        Returns
        -------
        DataFrame
            ``user``, ``item``, ``score``, ``rank`` (from 1) and, where known, ``title``; users in the order
            of the request. Equal scores are in the order of the items' ids.

        Raises
        ------
        RequestError
            For a request that cannot be answered, with the remedy.
        """
        asked = self.requests(
            users, histories, context=context, on_unknown_items=on_unknown_items, on_cold_users=on_cold_users
        )
        chosen = self.selection(
            k,
            filter_seen=filter_seen,
            items=items,
            exclude=exclude,
            memories=memories,
            on_unknown_items=on_unknown_items,
        )
        return pd.concat(self.tables(asked, chosen), ignore_index=True)

    def tables(self, requests: Requests, selection: Selection) -> Iterator[pd.DataFrame]:
        """Yield what :meth:`recommend` returns in parts, so that no table of all users is held."""
        with explain_memory_errors():
            yield from recommendations(self.scorer, requests, self.items, self.popularity, selection)

    def similar_items(
        self, items: Iterable[object], k: int = 10, *, on_unknown_items: str = "error"
    ) -> pd.DataFrame:
        """Find the items whose vectors have the largest cosine with those of some items.

        Returns
        -------
        DataFrame
            ``item``, ``similar``, ``score``, ``rank`` and, where known, ``title`` (of the similar one).

        Raises
        ------
        RequestError
            If ``k`` is out of range, an item is unknown, or the model has no vectors of items.
        """
        ids, _ = self.items.require(items, "items", on_unknown_items)
        return similar(self._vectors, self.items, ids[ids > 0], k)

    @functools.cached_property
    def _vectors(self) -> torch.Tensor:
        return item_vectors(self)

    def explain(
        self,
        history: Iterable[object] | None = None,
        *,
        user: object = None,
        item: object = None,
        filter_seen: bool = True,
        owners: bool = False,
        context: Mapping[str, Any] | None = None,
        on_unknown_items: str = "skip",
    ) -> Explanation:
        """Tell where a recommendation comes from.

        Parameters
        ----------
        history : iterable of tokens
            Items, oldest first.
        user : token, instead of a history
            A known user. With a history: whose it is.
        item : token
            Which recommendation; by default the first.
        owners : bool
            Name the users whose memories were retrieved; otherwise they are numbered.
        filter_seen, context, on_unknown_items
            As in :meth:`recommend`.

        Raises
        ------
        RequestError
            If user, history or item is unknown or empty.
        """
        return explain(
            self,
            history,
            user=user,
            item=item,
            filter_seen=filter_seen,
            owners=owners,
            context=context,
            on_unknown_items=on_unknown_items,
        )

    def add(self, interactions: Any, *, on_unknown_items: str = "skip", save: bool = False) -> Added:
        """Learn of new interactions without training: histories grow, and memories of them are made.

        Parameters
        ----------
        interactions : DataFrame or iterable of (user, item, timestamp)
            A DataFrame has columns for user, item and timestamp or position (in the user's history, from 0).
            The same event again changes nothing. Events of a user are taken in the order of their times.
        on_unknown_items : {"skip", "error"}
            The model has no vector of an item that it was not trained with.
        save : bool
            Save the recommender, whole or not at all.

        Returns
        -------
        Added
            What became of the events.

        Raises
        ------
        RequestError
            If columns or values are missing or garbled; then nothing is added.
        """
        done = add_events(self, interactions, on_unknown_items)
        if save:
            self.save()
        return done

    def forget(self, user: object, *, save: bool = False) -> int:
        """Erase a user: history, memories and name; returns how many memories that were.

        What the model's weights learned from the user stays, and so do other files (the data set,
        ``saved/``).

        Raises
        ------
        RequestError
            If the user is unknown.
        """
        removed = forget_user(self, user)
        if save:
            self.save()
        return removed

    def save(self, folder: str | Path | None = None) -> Path:
        """Write the recommender to a folder that appears whole; by default where it came from.

        Raises
        ------
        CheckpointError
            If something else lies there, another process serves or changes what does, or it has changed
            since this one was loaded from there.
        """
        target = self.folder if folder is None else Path(folder)
        if target is None:
            raise RecboleRaError("save: this recommender comes from no folder; name one")

        def busy() -> None:
            raise CheckpointError(
                f"{target}: another process serves or changes it; stop that one first, or name another folder"
            )

        if not (target / MANIFEST).is_file():
            save_recommender(self, target)
        else:
            with editing(target, busy) as earlier:
                if earlier == self.folder and on_disk(earlier) != self.on_disk:
                    raise CheckpointError(
                        f"{target}: was changed since it was loaded; load it again and repeat the change, or "
                        "name another folder"
                    )
                save_recommender(self, earlier)
        self.folder = target.resolve()
        self.on_disk = on_disk(self.folder)
        return target

    def export(self, folder: str | Path, *, onnx: bool = False, overwrite: bool = False) -> Path:
        """Write vectors, memories and, with ``onnx``, the encoder as plain files that appear whole.

        A README.json among them says what each file is and what a score is.

        Raises
        ------
        RecboleRaError
            If the folder exists, the model has no vectors of items or no encoder of ours, a package is
            missing, or onnxruntime gives other states than torch; then nothing is written.
        """
        return export(self, Path(folder), onnx=onnx, overwrite=overwrite)
