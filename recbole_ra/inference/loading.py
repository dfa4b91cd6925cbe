"""Recommenders from a run in progress, and from the folder that one left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_ra.core.errors import CheckpointError, DataError, SettingsError, explain_memory_errors
from recbole_ra.data.dataset import Fields
from recbole_ra.data.table import SequenceTable, offsets_of
from recbole_ra.inference.about import About
from recbole_ra.inference.files import (
    BANK,
    LATEST_RUN,
    WEIGHTS,
    model_folder,
    read_about,
    read_data,
    read_weights,
    state_of,
)
from recbole_ra.inference.journal import apply_changes, read_journal
from recbole_ra.inference.recommender import Recommender
from recbole_ra.inference.scoring import Scorer
from recbole_ra.inference.tokens import Items, Tokens
from recbole_ra.models.recbole_models import RecBoleRecommender
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.prepare.titles import titles_beside
from recbole_ra.retrieval.finetuning import build_recommender
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.checkpoint import load_weights
from recbole_ra.training.run import Run

TRIES = 5
"""How often a recommender is read that another process saves meanwhile."""


def load(path: str | Path = LATEST_RUN, device: torch.device | str = "cpu") -> Recommender:
    """Load the recommender that a run left; the data set need not be there.

    Every file is checked first, and nothing that is loaded is executed. Changes that a server acknowledged
    since it was saved are part of it.

    Parameters
    ----------
    path : path
        A run's folder, or the folder ``model`` in it.
    device : torch.device or str

    Raises
    ------
    CheckpointError
        If there is none, or a file is missing, damaged or of another format.
    """
    folder = model_folder(Path(path))
    for _ in range(TRIES):
        before = state_of(folder)
        try:
            recommender = _saved(folder, device)
            written = read_journal(folder)
            apply_changes(recommender, written.changes)
        except CheckpointError:
            if state_of(folder) == before:
                raise
        else:
            if state_of(folder) == before:
                recommender.on_disk = before, written.size
                return recommender
    raise CheckpointError(f"{folder}: another process saves it again and again; try later")


def _saved(folder: Path, device: torch.device | str) -> Recommender:
    """Read a recommender as it was saved; of two states if it is saved anew meanwhile."""
    about = read_about(folder)
    try:
        config = about.config(device)
        base = about.base(config)
    except SettingsError as error:
        raise CheckpointError(f"{folder}: its settings are not read by this version: {error}") from error
    items, users, table = read_data(folder)
    if len(items) != about.n_items:
        raise CheckpointError(
            f"{folder}: holds {len(items)} items, not {about.n_items}; copy the folder again"
        )
    state = read_weights(folder, config.torch_device)
    with explain_memory_errors():
        model = base.trained
        if config.uses_retrieval:
            bank = MemoryBank.load(folder / BANK, config.torch_device)
            model = build_recommender(config, _observed(about, config, base.trained), bank)
        load_weights(model, state, folder / WEIGHTS)
    scorer = _scorer(about, config, model)
    if isinstance(model, SequentialModel):
        # RecBole's models tell their item vectors as they encode: of the weights that were loaded now.
        with torch.no_grad():
            model.represent(scorer.probe())
    return Recommender(about, scorer, items, users, table, folder)


def _observed(about: About, config: RaConfig, trained: Any) -> SequentialModel:
    if isinstance(trained, SequentialModel):
        return trained
    probe = _scorer(about, config, trained).probe()
    return RecBoleRecommender(trained, about.n_items, Fields.of(config), probe, about.observed())


def recommender_of(run: Run, model: Any, versions: Mapping[str, str]) -> Recommender:
    """Make a recommender of what a run trained: all that is known of its users, the test item too.

    Raises
    ------
    CheckpointError
        If the model cannot be built again without the data set.
    """
    dataset = run.splits.whole
    about = About.of(run, model, versions)
    folder, separator = Path(dataset.dataset_path), run.config["field_separator"]
    try:
        titles = titles_beside(folder, dataset.dataset_name, separator)
    except DataError as error:  # nothing was learned from them
        run.say(f"{error}; the recommender is kept without titles")
        titles = {}
    users = [str(token) for token in dataset.field2id_token[dataset.uid_field]]
    return Recommender(
        about,
        _scorer(about, run.config, model),
        Items(dataset.vocabulary, titles),
        Tokens(users),
        _by_user(dataset.table, len(users)),
    )


def keep(run: Run, model: Any, versions: Mapping[str, str], folder: Path) -> bool:
    """Write the recommender of a run, or say why there is none; tell which."""
    try:
        recommender_of(run, model, versions).save(folder)
    except CheckpointError as error:
        run.say(f"no recommender is kept: {error}")
        return False
    return True


def _scorer(about: About, config: RaConfig, model: Any) -> Scorer:
    return Scorer(
        model,
        Fields.of(config),
        n_items=about.n_items,
        n_users=about.n_users,
        max_length=config["MAX_ITEM_LIST_LENGTH"],
        trims=isinstance(model, SequentialModel) and model.trims,
        device=config.torch_device,
    )


def _by_user(table: SequenceTable, n_users: int) -> SequenceTable:
    """Return the same sequences, in the order of users, with an empty one for those without."""
    lengths = np.zeros(n_users, np.int64)
    lengths[table.users] = table.lengths  # sorted by user
    return SequenceTable.from_arrays(table.items, offsets_of(lengths), table.n_items, times=table.times)
