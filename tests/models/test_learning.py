"""A data set whose answers are known is learned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from recbole_ra.models.registry import BACKBONES
from recbole_ra.pipeline.runner import run

N = 10


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Walks over a ring of items: the next item is always the previous one plus one."""
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(50):
        start, length = rng.integers(N), rng.integers(5, 9)
        lines += [f"u{user}\ti{(start + time) % N}\t{time}" for time in range(length)]
    (tmp_path / "ring").mkdir()
    (tmp_path / "ring" / "ring.inter").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("model", BACKBONES)
def test_the_next_item_on_a_ring_is_learned(model: str, ring: Path) -> None:
    small = {
        "hidden_size": 16,
        "embedding_size": 16,
        "inner_size": 32,
        "n_layers": 1,
        "hidden_dropout_prob": 0.1,
        "attn_dropout_prob": 0.0,
        "dropout_prob": 0.1,
        "pareto_rule": 0.0,
    }
    own = {field.name for field in dataclasses.fields(BACKBONES[model].Settings)}
    epochs = 120 if model.startswith("MELT") else 40
    result = run(
        model,
        "ring",
        **{name: value for name, value in small.items() if name in own},
        data_path=str(ring),
        output_dir=str(ring / "runs"),
        checkpoint_dir=str(ring / "saved"),
        say=lambda line: None,
        use_gpu=False,
        state="ERROR",
        epochs=epochs,
        eval_step=epochs,
        train_batch_size=64,
        learning_rate=0.01,
        topk=[1],
        valid_metric="Recall@1",
    )
    # MELT gives the rarest of the ten items the vector that its branch says: it learned that from nine.
    least = 0.7 if model.startswith("MELT") else 0.95
    assert result.test["unmasked"]["recall@1"] > least
    assert result.test["unmasked"]["ndcg@1"] > least
