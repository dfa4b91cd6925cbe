"""Every model that needs no features of the data can be built from sizes alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from recbole_ra.core.errors import CheckpointError
from recbole_ra.inference.about import About, lasting_settings
from recbole_ra.models.registry import READ_FEATURES, available_backbones
from recbole_ra.training.setup import build_base


def about(config: Any, splits: Any) -> About:
    whole = splits.whole
    return About(config.model, "tiny", lasting_settings(config), whole.user_num, whole.item_num, None, {})


@pytest.mark.parametrize("model", sorted({*available_backbones()} - {*READ_FEATURES}))
def test_the_same_model_is_built_without_the_data(
    model: str, tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    wanted = {"HGN": {"loss_type": "BPR"}, "Caser": {"MAX_ITEM_LIST_LENGTH": 10}}.get(model, {})
    config = tiny_config(model, **wanted)
    said = about(config, tiny_splits)
    again = said.config("cpu")
    assert again.built_with == config.built_with
    assert vars(again.raft) == vars(config.raft)
    with torch.random.fork_rng():
        one, other = build_base(config, tiny_splits).trained, said.base(again).trained
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (one, other)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("model", ["GRU4RecF", "SASRecF"])
def test_a_model_that_reads_features_says_so(
    model: str, tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    config = tiny_config(model, selected_features=["item_id"])
    with pytest.raises(CheckpointError, match=f"{model} reads more of the data set than its sizes"):
        about(config, tiny_splits).base(config)
