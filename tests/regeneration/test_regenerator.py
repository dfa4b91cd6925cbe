"""How the regenerator is trained: what it starts from, how it is optimised, what selects its epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra.core.store import ArtifactStore
from recbole_ra.data.dataset import Splits
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.regeneration.regenerator import RegeneratorStages
from recbole_ra.regeneration.trainer import DEV_LOSS, RegeneratorTrainer
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.run import Run

Spy = Callable[[RegeneratorTrainer], None]


@pytest.fixture
def stages(regenerating: dict[str, Any], tmp_path: Path) -> Callable[..., RegeneratorStages]:
    """Makes the stages of a run on the walks: ``stages(regenerator_epochs=3)``."""

    def make(**changes: Any) -> RegeneratorStages:
        config = RaConfig("SASRec", None, (), {**regenerating, **changes})
        run = Run(config, Splits.load(config), ArtifactStore(tmp_path / "saved"), lambda line: None)
        return RegeneratorStages(run, MinedPatterns(run))

    return make


@pytest.fixture
def before_training(monkeypatch: pytest.MonkeyPatch) -> list[Spy]:
    """What is in this list is called with the regenerator's trainer before it trains."""
    spies: list[Spy] = []
    fit = RegeneratorTrainer.fit

    def spied(self: RegeneratorTrainer, *arguments: Any, **options: Any) -> Any:
        for spy in spies:
            spy(self)
        return fit(self, *arguments, **options)

    monkeypatch.setattr(RegeneratorTrainer, "fit", spied)
    return spies


def test_it_starts_from_the_teachers_item_vectors(
    stages: Callable[..., RegeneratorStages], before_training: list[Spy]
) -> None:
    begun: list[torch.Tensor] = []
    made = stages()
    n_items = len(made.items)
    before_training.append(lambda trainer: begun.append(trainer.model.network.item_table[:n_items].clone()))
    trained = made.regenerator.network.item_table[:n_items]
    (start,) = begun
    assert torch.equal(start, made.teacher.item_table)
    assert not torch.equal(start, trained)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_adam_with_its_betas_and_the_cosine_of_the_variant(
    variant: str, stages: Callable[..., RegeneratorStages], before_training: list[Spy]
) -> None:
    steps: list[tuple[float, tuple[float, float]]] = []

    def watch(trainer: RegeneratorTrainer) -> None:
        trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_: steps.append(
                (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"])
            )
        )

    before_training.append(watch)
    made = stages(regenerator_epochs=4, variant=variant)
    assert made.regenerator is not None
    assert {betas for _, betas in steps} == {(0.9, 0.98)}
    assert len(steps) >= 4
    period = 4 if variant == "released" else len(steps)
    expected = [1e-3 * (1 + math.cos(math.pi * step / period)) / 2 for step in range(len(steps))]
    assert [rate for rate, _ in steps] == pytest.approx(expected)


def test_pairs_of_held_out_users_are_not_trained_on(stages: Callable[..., RegeneratorStages]) -> None:
    made = stages()
    train, dev = made.pair_batches()
    assert dev is not None
    owners = [set(made.sources.users[part.sequence].tolist()) for part in (train, dev)]
    assert all(owners)
    assert not owners[0] & owners[1]
    released, none = stages(variant="released").pair_batches()
    assert none is None
    assert len(released.sequence) == len(train.sequence) + len(dev.sequence)


def test_the_epoch_with_the_lowest_loss_on_held_out_pairs_is_kept(
    stages: Callable[..., RegeneratorStages], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    losses = itertools.chain([3.0, 1.0, 2.0, 4.0])

    def measured(self: RegeneratorTrainer, *_: Any, **__: Any) -> Any:
        self._last_result = {DEV_LOSS: next(losses)}
        return self._last_result[DEV_LOSS], dict(self._last_result)

    monkeypatch.setattr(RegeneratorTrainer, "_valid_epoch", measured)
    made = stages(regenerator_epochs=4)
    kept = made.regenerator.network.item_table
    (best,) = (tmp_path / "saved").glob("regenerator-*/best.pt")
    content = torch.load(best, weights_only=True)
    assert content["epoch"] == 1
    assert torch.equal(content["state_dict"]["network.items.weight"], kept)
    assert [epoch[DEV_LOSS] for epoch in made.history()] == [3.0, 1.0, 2.0, 4.0]
    assert np.isfinite(kept.detach().numpy()).all()
