"""What a trial tells Ray after each epoch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from recbole_ra.retrieval.finetuning import RAFT
from recbole_ra.tuning.space import Space
from recbole_ra.tuning.trial import Reporter, TrialPlan

PLAN = TrialPlan(
    model="RaSASRec",
    dataset="shop",
    settings={},
    space=Space(Path("s.yaml"), ()),
    stage=RAFT,
    metric="ndcg@10",
    bigger=True,
    folder=Path("trials"),
    checkpoint_every=0,
    uses_gpu=False,
)


@pytest.mark.parametrize(
    ("bigger", "best", "best_epochs"),
    [(True, [0.2, 0.3, 0.3, 0.3], [0, 1, 1, 3]), (False, [0.2, 0.2, 0.1, 0.1], [0, 0, 2, 2])],
)
def test_the_best_epoch_is_the_last_of_equal_ones_as_in_training(
    bigger: bool, best: list[float], best_epochs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reported.append)
    report = Reporter(dataclasses.replace(PLAN, bigger=bigger), went_on=False)
    report({"stage": "SASRec", "epoch": 0, "ndcg@10": 0.9, "loss": 1.0})
    for epoch, value in enumerate([0.2, 0.3, 0.1, 0.3]):
        report({"stage": RAFT, "epoch": epoch, "ndcg@10": value, "loss": 1.0})
    assert [entry["best"] for entry in reported] == best
    assert [entry["best_epoch"] for entry in reported] == best_epochs
    assert [entry["epochs"] for entry in reported] == [1, 2, 3, 4]
