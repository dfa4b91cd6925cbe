"""What a trial tells Ray after each epoch."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="make setup-tune installs it")

from ray import tune

from recbole_ra.cli import parse_settings
from recbole_ra.retrieval.finetuning import RAFT
from recbole_ra.tuning.options import Sweep, plan_sweep
from recbole_ra.tuning.trial import EPOCH, Reporter

Words = Callable[..., list[str]]


def plan(words: list[str]) -> Sweep:
    settings, files = parse_settings(words)
    return plan_sweep(settings.pop("model"), settings.pop("dataset"), files, settings)


def test_a_plan_can_be_sent_to_another_process(words: Words) -> None:
    sweep = plan(words("alpha: {grid: [0.3, 0.7]}"))
    there = pickle.loads(pickle.dumps(sweep))
    assert (there.metric, there.bigger, there.grace) == ("mean_ndcg@10", True, sweep.grace)
    assert (there.config.model, there.space, there.settings) == ("RaSASRec", sweep.space, sweep.settings)


@pytest.mark.parametrize(
    ("bigger", "best", "best_epochs"),
    [(True, [0.2, 0.3, 0.3, 0.3], [0, 1, 1, 3]), (False, [0.2, 0.2, 0.1, 0.1], [0, 0, 2, 2])],
)
def test_the_best_epoch_is_the_last_of_equal_ones_as_in_training(
    bigger: bool, best: list[float], best_epochs: list[int], words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reported.append)
    metric = "mean_ndcg@10" if bigger else "averagepopularity@10"
    options = (
        {} if bigger else {"valid_metric": "AveragePopularity@10", "metrics": "[NDCG,AveragePopularity]"}
    )
    report = Reporter(plan(words("alpha: {grid: [0.3]}", **options)), after=None)
    report({"stage": "SASRec", "epoch": 0, metric: 0.9, "loss": 1.0})
    for epoch, value in enumerate([0.2, 0.3, 0.1, 0.3]):
        report({"stage": RAFT, "epoch": epoch, metric: value, "loss": 1.0})
    assert [entry["best"] for entry in reported] == best
    assert [entry["best_epoch"] for entry in reported] == best_epochs
    assert [entry["epochs"] for entry in reported] == [1, 2, 3, 4]


def test_of_the_trial_that_it_goes_on_from_nothing_is_reported(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, Any]] = []
    left: list[str] = []

    def take(metrics: dict[str, Any], checkpoint: Any = None) -> None:
        reported.append(metrics)
        if checkpoint is not None:
            left.append((Path(checkpoint.path) / EPOCH).read_text())

    monkeypatch.setattr(tune, "report", take)
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).write_bytes(b"")
    report = Reporter(plan(words("alpha: {uniform: [0.1, 0.9]}", scheduler="pbt", grace_epochs=2)), after=1)
    for epoch, value in enumerate([0.5, 0.6, 0.2, 0.1]):
        entry = {"stage": RAFT, "epoch": epoch, "mean_ndcg@10": value, "loss": 1.0}
        report(entry if epoch < 2 else {**entry, "checkpoint": str(tmp_path / "last.pt")})
    assert [(entry["best"], entry["best_epoch"], entry["epochs"]) for entry in reported] == [
        (0.2, 2, 3),
        (0.2, 2, 4),
    ]
    assert left == ["3"]
