"""What the trainer does in RecBole's place within an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.trainer import trainer as recbole_trainer

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.models.recommenders import BackboneRecommender
from recbole_ra.models.sasrec import SASRec, SASRecSettings
from recbole_ra.training.trainer import RaTrainer


def test_gradients_are_clipped_as_they_are_not_as_the_scaler_multiplied_them(
    tiny_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of gradient descent is as long as the largest norm, whatever the scale."""
    scale = 2.0**16

    class Scaler(torch.amp.GradScaler):
        def __init__(self, enabled: bool) -> None:
            super().__init__("cpu", init_scale=scale, enabled=enabled)

    monkeypatch.setattr(recbole_trainer.amp, "GradScaler", Scaler)
    items = np.random.default_rng(0).integers(1, 10, 120)
    table = SequenceTable.from_arrays(items, np.arange(0, 121, 6), 10)
    moved = []
    for scaled in (False, True):
        torch.manual_seed(0)
        architecture = SASRecSettings(
            hidden_size=16, inner_size=16, hidden_dropout_prob=0, attn_dropout_prob=0
        )
        model = BackboneRecommender(SASRec(10, 6, architecture), None)  # type: ignore[arg-type]
        config = tiny_config(
            "SASRec", learner="sgd", learning_rate=1.0, weight_decay=0.0, clip_grad_norm={"max_norm": 1e-3}
        )
        trainer = RaTrainer(config, model, folder=tmp_path, identity={}, stage="SASRec", train_dataset=None)
        trainer.enable_scaler = scaled
        before = [parameter.detach().clone() for parameter in model.parameters()]
        feed = SequenceBatches(
            Prefixes.all_of(table, 6), batch_size=100, targets_per_pass=5, n_groups=1, seed=0
        )
        trainer._train_epoch(feed, 0)
        assert len(feed) == 1
        steps = [now.detach() - then for now, then in zip(model.parameters(), before, strict=True)]
        moved.append(torch.cat([step.flatten() for step in steps]))
    assert moved[0].norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert torch.allclose(*moved, atol=1e-7)
