from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra.core.errors import DataError
from recbole_ra.data.batching import SequenceBatches, TrainBatch
from recbole_ra.data.curriculum import Curriculum
from recbole_ra.data.table import ORIGINS, Origin, Prefixes, SequenceTable
from recbole_ra.models.cl4srec import CL4SRec, CL4SRecSettings

N_ITEMS = 46
MIXED = np.resize([Origin.ORIGINAL, Origin.PATTERN, Origin.REGENERATED], 21)


def table(origin: np.ndarray) -> SequenceTable:
    """Rows of six items each, 1 to 15 in originals, 16 to 30 in patterns, 31 to 45 in decoded rows."""
    items = np.random.default_rng(0).integers(1, 16, (len(origin), 6)) + 15 * origin[:, None]
    return SequenceTable.from_arrays(items.ravel(), np.arange(0, items.size + 1, 6), N_ITEMS, origin=origin)


def feed(origin: np.ndarray, targets_per_pass: int = 3) -> SequenceBatches:
    rows = Prefixes.all_of(table(origin), 6)
    return SequenceBatches(rows, batch_size=40, targets_per_pass=targets_per_pass, n_groups=3, seed=0)


def model(origins: str, **settings: Any) -> CL4SRec:
    torch.manual_seed(0)
    made = CL4SRecSettings(hidden_size=8, inner_size=8, contrast_origins=origins, **settings)
    return CL4SRec(N_ITEMS, 6, made)


def histories(items: torch.Tensor) -> list[list[int]]:
    return [[item for item in row if item] for row in items.tolist()]


def contrasted(made: CL4SRec, batch: TrainBatch) -> list[list[int]]:
    return [row for items, _ in made.contrasted(batch) for row in histories(items)]


@pytest.mark.parametrize("targets_per_pass", [1, 3, 50])
@pytest.mark.parametrize("origins", ["original+pattern+regenerated", "original", "pattern+regenerated"])
def test_views_are_of_the_origins_asked_for(origins: str, targets_per_pass: int) -> None:
    made = model(origins)
    for batch in feed(MIXED, targets_per_pass):
        every = [row for group in batch.groups for row in histories(group.items)]
        wanted = [row for row in every if ORIGINS[(row[0] - 1) // 15] in origins]
        assert contrasted(made, batch) == wanted
        assert wanted


@pytest.mark.parametrize("origins", ["original", "regenerated"])
def test_processes_that_share_a_step_contrast_each_history_once(origins: str) -> None:
    made = model(origins)
    alone = [row for batch in feed(MIXED) for row in contrasted(made, batch)]
    shared = [
        row
        for rank in range(3)
        for shard in feed(MIXED).shards(rank, 3)
        if shard.share > 0
        for row in contrasted(made, shard.batch)
    ]
    assert sorted(shared) == sorted(alone)


def test_no_original_is_contrasted_where_the_originals_train_at_the_end() -> None:
    originals = feed(np.full(9, Origin.ORIGINAL))
    made, batches = model("pattern+regenerated"), Curriculum(feed(MIXED), originals, 1)
    first, then = ([row for batch in batches for row in contrasted(made, batch)] for _ in range(2))
    assert min(itertools.chain.from_iterable(row[:1] for row in first)) > 15
    assert then == []


def test_a_step_without_such_a_history_has_no_contrast() -> None:
    batch = next(iter(feed(np.full(9, Origin.ORIGINAL))))
    with_term, without = (model("pattern", lmd=lmd).eval() for lmd in (1, 0))
    torch.testing.assert_close(with_term.calculate_loss(batch), without.calculate_loss(batch))
    with_originals = model("original", lmd=1).eval()
    assert with_originals.calculate_loss(batch) > without.calculate_loss(batch) + 0.1


def test_views_of_rows_that_do_not_train_are_refused() -> None:
    with pytest.raises(DataError, match="contrast_origins='pattern': no row of that origin trains"):
        model("pattern").see(table(np.full(3, Origin.ORIGINAL)))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_what_is_contrasted_of_a_view(pooling: str) -> None:
    """With places counted from the start, the states of a view are those of its prefixes."""
    made = model("original", contrast_pooling=pooling, positions="start").eval()
    items = torch.tensor([[3, 5, 7, 0], [2, 0, 0, 0], [9, 9, 1, 4]])
    lengths = torch.tensor([3, 1, 4])
    for row, found in enumerate(made.pooled(items, lengths)):
        n = int(lengths[row])
        prefixes = torch.arange(1, n + 1)
        states = made.represent(items[row].expand(n, 4) * (torch.arange(4) < prefixes[:, None]), prefixes)
        torch.testing.assert_close(found, states[-1] if pooling == "last" else states.mean(0))
