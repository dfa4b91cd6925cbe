"""A small recommender over a bank of all training rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from recbole_ra.retrieval.bank import memories_of
from recbole_ra.retrieval.finetuning import build_recommender
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.training.setup import build_base

K = 4


@pytest.fixture
def make(tiny_config: Callable[..., Any], tiny_splits: Any) -> Callable[..., RetrievalRecommender]:
    """Make an augmented SASRec, untrained; ``std`` draws every weight anew, the fusion's too."""

    def build(*, std: float | None = None, **settings: Any) -> RetrievalRecommender:
        config = tiny_config("RaSASRec", n_neighbors=K, index_type="Flat", **settings)
        torch.manual_seed(0)
        base, rows = build_base(config, tiny_splits).trained, tiny_splits.train.prefixes
        torch.manual_seed(0)  # the same base, whatever was drawn before
        scatter(base, std)
        with torch.no_grad():
            keys = base.eval().represent(tiny_splits.train[torch.arange(len(rows))]).numpy()
        bank = MemoryBank.build(keys, **memories_of(rows), index_kind="Flat", seed=0)
        made = build_recommender(config, base, bank)
        if made.fusion is not None:
            scatter(made.fusion, std)
        return made.eval()

    return build


def scatter(module: torch.nn.Module, std: float | None) -> None:
    for parameter in module.parameters() if std is not None else ():
        torch.nn.init.normal_(parameter, std=std)
