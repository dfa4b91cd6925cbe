"""Our GRU4Rec is RecBole's: with its weights it gives its states and scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from recbole_ra.models.gru4rec import GRU4Rec


def test_states_and_scores_are_those_of_recbole(tiny_config: Callable[..., Any], tiny_splits: Any) -> None:
    from recbole.model.sequential_recommender.gru4rec import GRU4Rec as RecBoleGRU4Rec

    config = tiny_config("GRU4Rec", num_layers=2)
    torch.manual_seed(0)
    theirs = RecBoleGRU4Rec(config, tiny_splits.train).eval()
    ours = GRU4Rec(tiny_splits.whole.item_num, config["MAX_ITEM_LIST_LENGTH"], config.architecture).eval()
    state = {name.replace("gru_layers.", "gru."): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    rows = tiny_splits.test[list(range(len(tiny_splits.test)))]
    states = ours.represent(rows["item_id_list"], rows["item_length"])
    torch.testing.assert_close(states, theirs(rows["item_id_list"], rows["item_length"]))
    torch.testing.assert_close(states @ ours.item_table.T, theirs.full_sort_predict(rows))
