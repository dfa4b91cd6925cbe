"""The learned term of items that the user has had before."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.models.history import HistoryBias, ItemOffsets, distinct
from recbole_ra.models.losses import next_item_loss
from recbole_ra.models.sasrec import SASRec, SASRecSettings


def test_each_item_of_a_history_counts_once() -> None:
    found = distinct(torch.tensor([[3, 1, 3, 0, 3], [2, 2, 5, 4, 5]]))
    assert [sorted(row[row > 0].tolist()) for row in found] == [[1, 3], [2, 4, 5]]


def test_offsets_of_items_and_of_the_catalogue_agree() -> None:
    offsets = ItemOffsets(
        torch.tensor([[2, 4, 0], [1, 0, 0]]), torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0]])
    )
    scores = offsets.add_to(torch.zeros(2, 6))
    assert scores.tolist() == [[0, 0, 1, 0, -2, 0], [0, 3, 0, 0, 0, 0]]
    torch.testing.assert_close(offsets.of(torch.arange(6).expand(2, 6)), scores)
    twice = offsets.joined(offsets)
    torch.testing.assert_close(twice.add_to(torch.zeros(2, 6)), 2 * scores)


def test_state_bias_is_affine() -> None:
    bias = HistoryBias("state", 3)
    torch.nn.init.normal_(bias.slope)
    torch.nn.init.constant_(bias.constant, 0.2)
    states = torch.randn(4, 3)
    offsets = bias(states, torch.tensor([[1, 2]]).expand(4, 2))
    expected = 10 * 0.2 + states @ bias.slope
    torch.testing.assert_close(offsets.values, expected[:, None].expand(4, 2))
    with pytest.raises(ValueError, match="must be one of scalar, state"):
        HistoryBias("none", 3)


def backbone(kind: str) -> SASRec:
    torch.manual_seed(0)
    settings = SASRecSettings(
        hidden_size=8,
        inner_size=16,
        n_layers=1,
        hidden_dropout_prob=0.0,
        attn_dropout_prob=0.0,
        positions="start",
    )
    made = SASRec(12, 6, settings)
    made.learn_history_bias(kind)
    return made


@pytest.mark.parametrize("targets_per_pass", [1, 3])
@pytest.mark.parametrize("kind", ["scalar", "state"])
def test_training_scores_as_evaluation_does(kind: str, targets_per_pass: int) -> None:
    """The loss of a batch equals that of its rows, one history after another."""
    items = torch.tensor([1, 2, 1, 3, 2, 4, 5, 5, 6, 7, 6, 6]).numpy()
    table = SequenceTable.from_arrays(items, torch.tensor([0, 5, 8, 12]).numpy(), 12)
    prefixes = Prefixes.all_of(table, 6)
    model = backbone(kind)
    bias = model.history_bias
    assert bias is not None
    with torch.no_grad():
        bias.constant.fill_(-0.3)
    (batch,) = SequenceBatches(
        prefixes, batch_size=100, targets_per_pass=targets_per_pass, n_groups=2, seed=0
    )
    rows = prefixes[batch.rows.numpy()]
    histories, lengths = torch.from_numpy(rows.items()), torch.from_numpy(rows.lengths)
    states = model.represent(histories, lengths)
    logits = states @ model.item_table.T
    for row in range(len(rows)):
        for item in set(histories[row].tolist()) - {0}:
            added = -3.0 if bias.slope is None else -3.0 + states[row] @ bias.slope
            logits[row, item] = logits[row, item] + added
    expected = torch.nn.functional.cross_entropy(logits, batch.targets)
    torch.testing.assert_close(model.calculate_loss(batch), expected)


@pytest.mark.parametrize(("repeats", "sign"), [(True, 1), (False, -1)])
def test_it_learns_whether_items_repeat(repeats: bool, sign: int) -> None:
    """Known answer: where every target stands in the history the term rises, where none does it falls."""
    generator = torch.Generator().manual_seed(1)
    histories = torch.stack([torch.randperm(19, generator=generator)[:4] + 1 for _ in range(256)])
    others = torch.stack([torch.randperm(19, generator=generator) + 1 for _ in range(256)])
    fresh = (others[:, :, None] != histories[:, None, :]).all(-1).float().argmax(1)
    targets = histories[:, 2] if repeats else others[torch.arange(256), fresh]
    bias = HistoryBias("scalar", 4)
    states, table = torch.zeros(256, 4), torch.zeros(20, 4)
    optimizer = torch.optim.Adam(bias.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        next_item_loss("CE", states, table, targets, offsets=bias(states, histories)).backward()
        optimizer.step()
    assert sign * 10 * float(bias.constant) > 2


def test_a_run_learns_it(settings: dict[str, Any]) -> None:
    """The walks repeat little: unmasked results come nearer to masked ones, and retrieval keeps them."""
    from recbole_ra import run

    plain = run("SASRec", **settings, say=lambda line: None).test
    found = run("RaSASRec", **{**settings, "history_bias": "state", "epochs": 8}, say=lambda line: None)
    assert found.settings["history_bias"] == "state"
    assert plain["unmasked"].keys() == found.test["unmasked"].keys()
