"""One small trained run for each kind of model, with the scores that its test was measured by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from matplotlib.figure import Figure

import recbole_ra
from recbole_ra.models.registry import BACKBONES
from recbole_ra.pipeline import runner
from walks import leave_undrawn, settings_below, write_walks

VARIANTS: dict[str, dict[str, Any]] = {
    "past": {"memory_scope": "past"},
    "lists": {"index_type": "IVFFlat"},
    "all": {"finetune": "all"},
    "knn": {"fusion": "knn", "mixture_weight": 0.8},
    "gate": {"fusion": "gate", "alpha": 0.5},
    "bias": {"history_bias": "scalar", "alpha": 0.5},
}


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes
    ----------
    result : Result
    folder : Path
        The run's.
    users, times : lists
        Token of each row of the test, and when its target happened.
    histories : list of lists of tokens
        What each row was ranked for.
    targets : list of tokens
    scores : array, shape [rows, n_items]
        By evaluation.
    """

    result: Any
    folder: Path
    users: list[str]
    times: list[float]
    histories: list[list[str]]
    targets: list[str]
    scores: Any

    def load(self) -> recbole_ra.Recommender:
        return recbole_ra.load(self.folder)


def observed(run: Any, model: Any) -> dict[str, Any]:
    """Score the test as evaluation does."""
    split, items = run.splits.test, np.array(run.splits.whole.vocabulary, dtype=object)
    rows = split.prefixes
    table, users = rows.table, run.splits.whole.field2id_token[run.fields.user]
    scores = np.empty((len(rows), table.n_items), np.float32)
    for batch in run.evaluation(split, model):
        found = model.eval().full_sort_predict(batch.query).detach()
        scores[batch.rows] = found.view(-1, table.n_items).numpy()
    start = rows.flat_position - rows.position
    spans = zip(start, rows.flat_position, strict=True)
    return {
        "users": [str(users[user]) for user in rows.users],
        "times": table.times[rows.flat_position].tolist(),
        "histories": [items[table.items[first:last]].tolist() for first, last in spans],
        "targets": items[rows.targets].tolist(),
        "scores": scores,
    }


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Trains a model once in the session; the data set is gone when it is used.

    A second word is a variant: ``"RaSASRec past"``.
    """
    below = tmp_path_factory.mktemp("inference")

    @functools.cache
    def of(name: str) -> Trained:
        model = name.split()[0]
        data = write_walks(below / name.replace(" ", "-") / "data", users=40, items=25)
        titles = ["item_id:token\tmovie_title:token_seq", *(f"i{i}\tFilm {i}" for i in range(20))]
        (data / "walks" / "walks.item").write_text("\n".join(titles) + "\n")
        settings = settings_below(below / name.replace(" ", "-"), data)
        settings |= {"epochs": 2, "raft_epochs": 1, "MAX_ITEM_LIST_LENGTH": 6}
        if model.removeprefix("Ra") not in BACKBONES:
            settings = {
                k: v for k, v in settings.items() if k not in ("hidden_size", "inner_size", "n_layers")
            }
        settings |= VARIANTS.get(name.partition(" ")[2], {})
        seen: dict[str, Any] = {}

        def keep(run: Any, model: Any, versions: Any, folder: Path) -> None:
            seen.update(observed(run, model))
            really_keep(run, model, versions, folder)

        really_keep = runner.keep
        with mock.patch.object(runner, "keep", keep), mock.patch.object(Figure, "savefig", leave_undrawn):
            result = recbole_ra.run(model, **settings, say=lambda line: None)
        for file in (data / "walks").iterdir():
            file.unlink()
        return Trained(result, Path(result.folder), **seen)

    return of


@pytest.fixture
def recommender(trained: Callable[[str], Trained]) -> recbole_ra.Recommender:
    """RaSASRec, loaded for one test."""
    return trained("RaSASRec").load()
