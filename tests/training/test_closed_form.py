"""λ is chosen on validation, and a kernel that does not fit is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_ra import load, run
from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.models.infinite_ae import InfiniteAE
from recbole_ra.training import closed_form
from recbole_ra.training.closed_form import RIDGES, check_memory

pytestmark = pytest.mark.usefixtures("undrawn")

TRAINED = ("hidden_size", "inner_size", "n_layers")


@pytest.fixture
def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without an architecture and without retrieval."""
    return {name: value for name, value in settings.items() if name not in TRAINED}


@pytest.mark.parametrize("metric", ["masked_NDCG@10", "NDCG@10"])
def test_the_ridge_is_the_best_on_validation(metric: str, plain: dict[str, Any]) -> None:
    lines: list[str] = []
    plain |= {"valid_metric": metric, "show_progress": True}
    result = run("InfiniteAE", **plain, say=lines.append)
    tried = [entry["ridge"] for entry in result.history]
    assert tried == pytest.approx(list(RIDGES), abs=1e-3)
    assert sum("(ridge " in line for line in lines) == len(RIDGES)
    assert any("without effect with model=InfiniteAE" in line and "learning_rate" in line for line in lines)
    best = max(result.history, key=lambda entry: (entry[metric.lower()], entry["epoch"]))
    assert result.best_epochs(metric.lower(), bigger=True) == {"InfiniteAE": best["epoch"]}
    protocol = "masked" if metric.startswith("masked") else "unmasked"
    assert result.valid[protocol]["ndcg@10"] == pytest.approx(best[metric.lower()], abs=1e-4)
    assert result.test["masked"]["recall@10"] > 0.5  # by chance .35
    again = run("InfiniteAE", **plain, say=lines.append)
    assert again.reused == ["backbone"]
    assert again.test == result.test
    alone = run("InfiniteAE", **plain, ridge=best["ridge"], say=lines.append)
    assert [entry["ridge"] for entry in alone.history] == pytest.approx([best["ridge"]])
    assert alone.test == result.test
    table = load(Path(result.folder)).recommend(users=["u1"], k=3)
    assert len(table) == 3


def test_of_equal_ridges_the_last_is_kept(plain: dict[str, Any]) -> None:
    everything = {"topk": [30], "valid_metric": "Recall@30"}  # more than there are items: always found
    result = run("InfiniteAE", **plain | everything, say=lambda line: None)
    assert {entry["recall@30"] for entry in result.history} == {1.0}
    assert result.best_epochs("recall@30", bigger=True) == {"InfiniteAE": len(RIDGES) - 1}
    alone = run("InfiniteAE", **plain | everything, ridge=result.history[-1]["ridge"], say=lambda line: None)
    assert alone.valid == result.valid


def test_without_validation_the_ridge_is_given(plain: dict[str, Any]) -> None:
    plain |= {"eval_args": {"split": {"LS": "test_only"}}}
    with pytest.raises(SettingsError, match=r"ridge: there are no validation rows .* --ridge=1"):
        run("InfiniteAE", **plain, say=lambda line: None)
    result = run("InfiniteAE", **plain, ridge=1.0, say=lambda line: None)
    assert result.test["masked"]["recall@10"] > 0.5


def test_regenerated_rows_are_rows(plain: dict[str, Any]) -> None:
    result = run("InfiniteAE", **plain, regenerate="patterns", say=lambda line: None)
    assert result.test["masked"]["recall@10"] > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 2}, "workers=2: InfiniteAE is solved in one process"),
        ({"history_bias": "scalar"}, "history_bias='scalar' .* InfiniteAE is none of them"),
        ({"ridge": -1.0}, "ridge=-1.0 must be >= 0"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str, plain: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=message):
        run("InfiniteAE", **plain, **changes, say=lambda line: None)


def test_what_does_not_fit_is_refused_first(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "available_memory", lambda device: 10_000)
    monkeypatch.setattr(InfiniteAE, "kernel", None)
    with pytest.raises(RecboleRaError, match=r"kernel of 80 training rows.*leave rows out with"):
        run("InfiniteAE", **plain, say=lambda line: None)


def test_the_memory_that_is_needed_is_counted() -> None:
    model = InfiniteAE(11, None)  # type: ignore[arg-type]
    model.offsets = torch.arange(101)
    assert model.memory_needed == 4 * (3 * 100**2 + 3 * 100 * 11)
    check_memory(model, model.memory_needed)
    with pytest.raises(RecboleRaError, match=r"InfiniteAE: the kernel of 100 training rows.* for 10 items"):
        check_memory(model, model.memory_needed - 1)
