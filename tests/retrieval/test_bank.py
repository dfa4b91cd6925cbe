"""What is remembered, and which training rows may see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra import run
from recbole_ra.core.store import ArtifactStore
from recbole_ra.data.table import Origin
from recbole_ra.data.training_part import RegeneratedDataset
from recbole_ra.regeneration.merge import merge
from recbole_ra.retrieval.bank import encode_rows, extend_bank, memories_of, regenerated_memories
from recbole_ra.retrieval.finetuning import build_fusion, training_neighbours
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.training.run import Run
from recbole_ra.training.setup import build_base


@pytest.fixture
def state(tiny_config: Callable[..., Any], tiny_splits: Any, tmp_path: Path) -> Run:
    return Run(tiny_config("RaSASRec"), tiny_splits, ArtifactStore(tmp_path), lambda line: None)


def test_a_decoded_memory_is_as_late_as_its_owners_last_training_target(state: Run) -> None:
    """So no training query of the owner, to whom it may show a later item, can see it."""
    original = state.training_part.sequences
    decoded = original.head(np.where(original.lengths > 3, 3, 0))
    data = merge(original, None, decoded, np.zeros(len(decoded), dtype=np.int64))
    state.regenerated = RegeneratedDataset(state.splits.train, data.table)
    base = build_base(state.config, state.splits).trained
    facts = regenerated_memories(state, base)
    rows = state.regenerated.prefixes[state.regenerated.distinct_rows]
    is_decoded = data.table.origin[rows.sequence] == Origin.REGENERATED
    assert is_decoded.any()
    train = state.train_rows
    last = np.zeros(train.users.max() + 1, dtype=np.int64)
    np.maximum.at(last, train.users, train.position)
    assert (facts["lengths"][is_decoded] == last[facts["users"][is_decoded]]).all()
    np.testing.assert_array_equal(facts["lengths"][~is_decoded], rows.position[~is_decoded])


def recommender_of(state: Run, scope: str) -> RetrievalRecommender:
    """An untrained recommender that remembers every training row."""
    base = build_base(state.config, state.splits).trained
    states = encode_rows(state, base, state.splits.train)
    bank = MemoryBank.build(keys=states.numpy(), **memories_of(state.train_rows), index_kind="Flat", seed=0)
    return RetrievalRecommender(
        base,
        build_fusion(state.config, 16),
        None,
        bank,
        fields=state.fields,
        n_neighbors=5,
        scope=scope,
        loss_type="CE",
        finetune_all=False,
    )


@pytest.mark.parametrize("scope", ["any", "past"])
def test_training_rows_retrieve_in_their_scope(scope: str, state: Run) -> None:
    recommender = recommender_of(state, scope)
    states = encode_rows(state, recommender.base, state.splits.train)
    found = training_neighbours(state, recommender, states)
    times = torch.from_numpy(memories_of(state.train_rows)["times"])
    older = times[found.ids] < times[:, None]
    assert older[found.valid].all() == (scope == "past")


def test_validation_pairs_are_found_after_they_were_added(state: Run) -> None:
    recommender = recommender_of(state, "any")
    before, tests = len(recommender.bank), state.splits.test[np.arange(len(state.splits.test))]
    assert recommender.query(tests).ids.max() < before
    extend_bank(state, recommender)
    assert len(recommender.bank) == before + len(state.splits.valid)
    found = recommender.query(tests).ids
    added = found[found >= before].numpy() - before
    assert len(added)
    targets = state.splits.valid.prefixes.targets
    np.testing.assert_array_equal(recommender.bank.values[before:], targets)


def test_the_test_sees_the_validation_pairs_too(shared_settings: dict[str, Any]) -> None:
    extended = run("RaSASRec", **shared_settings, say=lambda line: None)
    added = extended.memory["memories_at_test"] - extended.memory["memories"]
    assert added == extended.data["valid"] > 0
    plain = run("RaSASRec", **shared_settings, extend_with_validation=False, say=lambda line: None)
    assert plain.memory["memories_at_test"] == plain.memory["memories"]
    assert "bank" in plain.reused
    assert "raft" not in plain.reused  # its weights are chosen with the bank of the test
    given = {**shared_settings, "alpha": 0.5, "mixture_weight": 0.8}
    extended = run("RaSASRec", **given, say=lambda line: None)
    plain = run("RaSASRec", **given, extend_with_validation=False, say=lambda line: None)
    assert "raft" in plain.reused
    assert plain.valid == extended.valid
