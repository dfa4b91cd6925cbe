from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from recbole_ra.retrieval.recommender import RaftBatch, RaftBatches
from recbole_ra.retrieval.retrieved import Retrieved


def test_predict_is_full_sort_predict(make: Callable[..., Any], tiny_splits: Any) -> None:
    model, queries = make(), tiny_splits.test[torch.arange(30)]
    scores = model.full_sort_predict(queries)
    assert scores.shape == (30, tiny_splits.whole.item_num)
    torch.testing.assert_close(model.predict(queries), scores.gather(1, queries["item_id"][:, None])[:, 0])
    assert not torch.allclose(scores, model.base.full_sort_predict(queries))


def test_known_neighbours_give_the_same_scores(make: Callable[..., Any], tiny_splits: Any) -> None:
    model, queries = make(), tiny_splits.test[torch.arange(30)]
    torch.testing.assert_close(
        model.full_sort_predict(model.query(queries)), model.full_sort_predict(queries)
    )


@pytest.mark.parametrize("scope", ["any", "past"])
def test_a_query_never_sees_itself_or_its_future(
    scope: str, make: Callable[..., Any], tiny_splits: Any
) -> None:
    model, rows = make(memory_scope=scope), torch.arange(len(tiny_splits.train))
    found = model.query(tiny_splits.train[rows])
    prefixes = tiny_splits.train.prefixes
    users, positions = torch.from_numpy(prefixes.users), torch.from_numpy(prefixes.position)
    own = (users[found.ids] == users[:, None]) & found.valid
    assert (positions[found.ids] < positions[:, None])[own].all()
    # Lengths are those of whole histories, not of the part that the encoder is given.
    assert (positions[found.ids] >= prefixes.max_length)[own].any()
    if scope == "past":
        times = torch.from_numpy(prefixes.table.times[prefixes.flat_position])
        assert (times[found.ids] < times[:, None])[found.valid].all()
        assert not found.valid.all()
    else:
        assert found.valid.all()


def test_alpha_one_is_the_backbone(make: Callable[..., Any], tiny_splits: Any) -> None:
    model, queries = make(alpha=1.0), tiny_splits.test[torch.arange(30)]
    torch.testing.assert_close(model.full_sort_predict(queries), model.base.full_sort_predict(queries))


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
@pytest.mark.parametrize("finetune", ["ram", "all"])
def test_what_is_frozen_does_not_learn(
    loss_type: str, finetune: str, make: Callable[..., Any], tiny_splits: Any
) -> None:
    model = make(loss_type=loss_type, finetune=finetune).train()
    assert model.base.training == (finetune == "all")
    queries = tiny_splits.train[torch.arange(40)]
    loss = model.calculate_loss(RaftBatch(model.query(queries), queries["item_id"]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.fusion.parameters())
    learns = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.base.parameters()]
    assert all(learns) if finetune == "all" else not any(learns)
    assert all(p.requires_grad == (finetune == "all") for p in model.base.parameters())


def test_batches_hold_every_row_once_and_can_be_resumed() -> None:
    n = 50
    rows = torch.arange(n)
    retrieved = Retrieved(rows.float()[:, None], rows[:, None], torch.ones(n, 1, dtype=torch.bool))

    def epochs(first: int, count: int, seed: int = 0) -> list[list[list[int]]]:
        batches = RaftBatches(lambda: retrieved.__getitem__, rows, batch_size=8, seed=seed)
        assert len(batches) == 7
        batches.epoch = first
        made = []
        for _ in range(count):
            epoch = list(batches)
            assert all(torch.equal(batch.query.ids[:, 0], batch.targets) for batch in epoch)
            made.append([batch.targets.tolist() for batch in epoch])
        return made

    unbroken = epochs(0, 3)
    assert all(sorted(row for batch in epoch for row in batch) == rows.tolist() for epoch in unbroken)
    assert unbroken[0] != unbroken[1]
    assert epochs(2, 1) == unbroken[2:]
    assert epochs(0, 1, seed=1) != unbroken[:1]
