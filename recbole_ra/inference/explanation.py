"""Where a recommendation comes from: the memories that were retrieved, and what they change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torch.overrides import TorchFunctionMode

from recbole_ra.core.errors import RequestError
from recbole_ra.data.table import IntArray
from recbole_ra.inference.requests import Requests
from recbole_ra.inference.scoring import hide_seen
from recbole_ra.inference.tokens import as_names, listed
from recbole_ra.report.tables import render
from recbole_ra.retrieval.index import normalise
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.retrieval.retrieved import Retrieved

if TYPE_CHECKING:
    from recbole_ra.inference.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why an item is recommended.

    Attributes
    ----------
    user : str or None
    item : str
    title : str or None
    score, rank : float, int
        As recommended; the rank is counted from 1 among the items that may be recommended.
    score_without, rank_without : float, int, or None
        The same without memories. Only ranks can be compared: scores are at another scale.
    memories : DataFrame
        Retrieved memories, most similar first: the ``item`` that each brought (and its ``title``);
        ``similarity``, the cosine of its prefix with the history; ``attention``, its mean weight over the
        heads of the fusion, or with ``knn`` alone among the neighbours (else NaN); ``effect``, what it
        adds to the score, that is the score less that without this memory; ``owner``: ``own``,
        ``pattern`` for a mined one, and else a number for each user, or tokens if asked for.
    n_owners : int
        Other users whose memories these are.
    votes : DataFrame
        Items of the history whose transitions raise the score, the strongest first, where transitions are
        mixed in: the ``item`` (and its ``title``), and its ``effect``, the score less that without its votes.
    note : str
        What is to be said beside, or nothing.
    """

    user: str | None
    item: str
    title: str | None
    score: float
    rank: int
    score_without: float | None
    rank_without: int | None
    memories: pd.DataFrame
    n_owners: int
    votes: pd.DataFrame
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; what is no number is None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("memories", "votes"):
            frame = values[name]
            values[name] = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return values

    def __str__(self) -> str:
        """Return a text for people."""
        what = f"{self.item} ({self.title})" if self.title else self.item
        lines = [f"{what}: rank {self.rank}, score {self.score:.4f}"]
        if self.rank_without is not None:
            lines[0] += f"; without memories rank {self.rank_without}, score {self.score_without:.4f}"
        if len(self.memories):
            others = f"{self.n_owners} other user{'' if self.n_owners == 1 else 's'}"
            lines += [f"{len(self.memories)} memories, of {others}:", _text(self.memories)]
        if len(self.votes):
            lines += ["items of the history that vote for it, by what followed them:", _text(self.votes)]
        return "\n".join([*lines, *([self.note] if self.note else [])])


def _text(frame: pd.DataFrame) -> str:
    table = Table(*frame.columns)
    for row in frame.itertuples(index=False):
        table.add_row(
            *(f"{cell:.4f}" if isinstance(cell, float) else str("" if cell is None else cell) for cell in row)
        )
    return render(table).rstrip()


def explain(
    recommender: Recommender,
    history: Iterable[object] | None,
    *,
    user: object,
    item: object,
    filter_seen: bool,
    owners: bool,
    context: Mapping[str, Any] | None,
    on_unknown_items: str,
) -> Explanation:
    """Explain one recommendation; see :meth:`Recommender.explain`."""
    given: dict[str, Any] = {"context": context, "on_unknown_items": on_unknown_items}
    label = None if user is None else str(as_names([user])[0])
    if history is None:
        if label is None:
            raise RequestError("explain: give a history or a user")
        if label not in recommender.users:
            raise RequestError(
                f"explain: {listed([label])} not among the users of this recommender"
                f"{recommender.users.nearest(label)}; give a history"
            )
        requests = recommender.requests([label], **given)
    else:
        items = as_names(history)
        requests = recommender.requests(
            histories=[list(items)] if label is None else {label: list(items)}, **given
        )
    if requests.cold.any():
        raise RequestError(
            "explain: the history holds no item that this recommender knows, so nothing speaks for one"
        )
    scorer, names = recommender.scorer, recommender.items
    interaction = scorer.interaction(requests)
    memory = recommender.memory
    query = interaction if memory is None else _retrieve(memory, interaction)
    scores = scorer.scores(query)[0]
    target = None if item is None else int(names.require([item], "item", "error", "name another")[0][0])
    allowed = _allowed(scores, requests, filter_seen, target)
    if target is None:
        target = int(torch.where(allowed, scores, -torch.inf).argmax())
    values: dict[str, Any] = {
        "user": label,
        "item": names.names[target],
        "title": names.title(target),
        "score": float(scores[target]),
        "rank": _rank(scores, allowed, target),
        "score_without": None,
        "rank_without": None,
        "n_owners": 0,
    }
    columns = ["item", *(["title"] if names.titles is not None else [])]
    numbers = ["similarity", "attention", "effect", "owner"]
    if memory is None:
        note = f"{recommender.about.model} remembers nothing, so there are no memories to show"
        none = pd.DataFrame(columns=[*columns, *numbers])
        return Explanation(**values, memories=none, votes=none[[*columns, "effect"]], note=note)

    ids = query.ids[0, query.valid[0]].cpu().numpy()
    changed = scorer.scores(_without_each(query, len(ids)))
    values["score_without"] = float(changed[0, target])
    values["rank_without"] = _rank(changed[0], allowed, target)
    brought = memory.bank.values[ids]
    table = pd.DataFrame({"item": names.names[brought]})
    if names.titles is not None:
        table["title"] = names.titles[brought]
    table["similarity"] = (normalise(memory.bank.keys[ids]) @ normalise(query.states.cpu().numpy()).T)[:, 0]
    table["attention"] = _attention(memory, query)[: len(ids)]
    table["effect"] = (scores[target] - changed[1:, target]).cpu().numpy()
    of_whom, values["n_owners"] = _owners(recommender, memory.bank.users[ids], requests, by_name=owners)
    table["owner"] = of_whom
    note = "" if len(ids) else "no memory may be seen by this request, so the state is left as it is"
    if memory.keeps_backbone:
        note = "these memories change nothing: on validation they did not help, so the backbone was kept"
    elif len(ids) and memory.mixes_transitions and memory.weights.get("alpha", 1.0) == 1:
        note = "these memories have no weight, since alpha is 1: what changes the score are the votes"
    votes = _votes(recommender, memory, query, target, float(scores[target]))
    return Explanation(**values, memories=table, votes=votes[[*columns, "effect"]], note=note)


def _votes(
    recommender: Recommender, memory: RetrievalRecommender, query: Retrieved, target: int, score: float
) -> pd.DataFrame:
    """Tell what the score of an item owes to the votes of each item of the history."""
    items, effect, voters = np.empty(0, np.int64), np.empty(0), query.histories
    if voters is not None and memory.mixes_transitions:
        items = np.unique(voters[voters > 0].cpu().numpy())
        without = query[torch.zeros(len(items), dtype=torch.int64)]
        left = voters.masked_fill(voters == torch.from_numpy(items)[:, None].to(voters.device), 0)
        changed = recommender.scorer.scores(dataclasses.replace(without, voters=left))
        effect = score - changed[:, target].cpu().numpy()
    helping = np.flatnonzero(effect > 0)
    order = helping[np.argsort(-effect[helping], kind="stable")]
    names, chosen = recommender.items, items[order]
    found = pd.DataFrame({"item": names.names[chosen], "effect": effect[order]})
    if names.titles is not None:
        found["title"] = names.titles[chosen]
    return found


def _allowed(scores: Tensor, requests: Requests, filter_seen: bool, target: int | None) -> Tensor:
    """Tell which items may be recommended, shape [items]; the one that is asked for always counts."""
    room = torch.zeros_like(scores)[None, :]
    room[:, 0] = -torch.inf
    if filter_seen:
        hide_seen(room, requests)
    allowed = torch.isfinite(room[0])
    if target is not None:
        allowed[target] = True
    if not allowed.any():
        raise RequestError("explain: the history holds every item, so none is left; use filter_seen=False")
    return allowed


def _rank(scores: Tensor, allowed: Tensor, item: int) -> int:
    """Rank an item among the allowed ones, from 1; of equal scores the first id comes first."""
    above = scores > scores[item]
    above[:item] |= scores[:item] == scores[item]
    return int((above & allowed).sum()) + 1


@torch.no_grad()
def _retrieve(memory: RetrievalRecommender, interaction: Any) -> Retrieved:
    return memory.query(interaction)


def _without_each(query: Retrieved, n: int) -> Retrieved:
    """Repeat a query: once without any memory and vote, then without each of its first ``n`` memories."""
    repeated = query[torch.zeros(n + 1, dtype=torch.int64)]
    valid = repeated.valid.clone()
    valid[0] = False
    places = torch.arange(n, device=valid.device)
    valid[places + 1, places] = False
    if repeated.histories is None:
        return dataclasses.replace(repeated, valid=valid)
    voters = repeated.histories.clone()
    voters[0] = 0
    return dataclasses.replace(repeated, valid=valid, voters=voters)


class _Softmax(TorchFunctionMode):
    """Remembers every softmax over the memories of one query."""

    def __init__(self, n_memories: int) -> None:
        super().__init__()
        self.n_memories = n_memories
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.softmax, Tensor.softmax, torch.nn.functional.softmax) and (
            result.shape[0] == 1 and result.shape[-1] == self.n_memories
        ):
            self.weights.append(result.reshape(-1, self.n_memories))
        return result


@torch.no_grad()
def _attention(memory: RetrievalRecommender, query: Retrieved) -> NDArray[np.float32]:
    """Mean weight of each memory over all heads of the fusion's attentions, shape [K].

    Where nothing is fused, its weight among the neighbours that are mixed in; NaN where none are.
    """
    with _Softmax(query.ids.shape[1]) as seen:
        if memory.fusion is None:
            memory.full_sort_predict(query)
        else:
            memory.fused(query.states, memory.memories(query))
    if not seen.weights:
        return np.full(query.ids.shape[1], np.nan, np.float32)
    return torch.cat(seen.weights).mean(0).cpu().numpy()


def _owners(
    recommender: Recommender, owners: IntArray, requests: Requests, *, by_name: bool
) -> tuple[list[str], int]:
    """Say whose each memory is, and how many other users these are."""
    own = int(requests.histories.users[0])
    others = list(dict.fromkeys(int(owner) for owner in owners if owner > 0 and owner != own))
    numbers = {owner: f"user {place}" for place, owner in enumerate(others, start=1)}
    if by_name:
        numbers = {owner: str(recommender.users.names[owner]) for owner in others}
    numbers |= {-1: "pattern", own: "own"}
    return [numbers.get(int(owner), "pattern") for owner in owners], len(others)
