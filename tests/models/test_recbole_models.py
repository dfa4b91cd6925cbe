from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_ra.core.errors import SettingsError
from recbole_ra.data.dataset import Fields, Splits
from recbole_ra.models.recbole_models import RecBoleRecommender
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.training.setup import build_base

INNER_PRODUCT = (
    "BERT4Rec Caser CORE FOSSIL GCSAN HGN HRM LightSANs NARM NextItNet NPE SHAN SINE SRGNN STAMP"
).split()
OTHER = ["FPMC", "RepeatNet", "TransRec"]


def load(name: str, tiny_config: Callable[..., Any]) -> tuple[Any, Splits, Fields]:
    """A model of RecBole's with all parameters at random, its data, and the names of columns."""
    config = tiny_config(name)
    splits = Splits.load(config)
    torch.manual_seed(0)
    model = build_base(config, splits).trained
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.3)
    return model, splits, Fields.of(config)


def wrap(model: Any, splits: Splits, fields: Fields, rows: int = 32) -> RecBoleRecommender:
    return RecBoleRecommender(model, splits.whole.item_num, fields, splits.train[torch.arange(rows)])


@pytest.mark.parametrize("name", INNER_PRODUCT)
def test_scores_are_those_of_the_model(name: str, tiny_config: Callable[..., Any]) -> None:
    model, splits, fields = load(name, tiny_config)
    recommender = wrap(model, splits, fields).eval()
    queries = splits.test[torch.arange(len(splits.test))]
    with torch.no_grad():
        expected = model.full_sort_predict(queries).view(len(queries), -1)
        scores, states = recommender.full_sort_predict(queries), recommender.represent(queries)
        single = recommender.predict(queries)
    table = recommender.item_table
    assert states.shape == (len(queries), table.shape[1])
    assert len(table) == splits.whole.item_num
    torch.testing.assert_close(scores[:, 1:], expected[:, 1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(scores.gather(1, queries["item_id"][:, None])[:, 0], single, rtol=0, atol=1e-5)
    assert (recommender.item_bias is not None) == (name == "BERT4Rec")


def test_the_state_of_narm_is_its_encoding(tiny_config: Callable[..., Any]) -> None:
    model, splits, fields = load("NARM", tiny_config)
    recommender = wrap(model, splits, fields).eval()
    queries = splits.test[torch.arange(20)]
    states = recommender.represent(queries)
    torch.testing.assert_close(states, model.forward(queries["item_id_list"], queries["item_length"]))
    torch.testing.assert_close(recommender.item_table, model.item_embedding.weight)


def test_constants_of_items_are_found(tiny_config: Callable[..., Any]) -> None:
    model, splits, fields = load("BERT4Rec", tiny_config)
    nn.init.normal_(model.output_bias, std=1e-3)  # small beside the scores, and still not lost
    bias = wrap(model, splits, fields).item_bias
    assert bias is not None
    torch.testing.assert_close(bias[1:], model.output_bias[1 : splits.whole.item_num], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OTHER)
def test_other_ways_to_score_are_refused(name: str, tiny_config: Callable[..., Any]) -> None:
    model, splits, fields = load(name, tiny_config)
    with pytest.raises(SettingsError, match=f"Ra{name}: {name} does not score by an inner product") as caught:
        wrap(model, splits, fields)
    assert f"--model={name} trains it alone" in str(caught.value)
    assert "\n" not in str(caught.value)


class Bent(SequentialRecommender):
    """Scores that a product alone does not explain."""

    def __init__(self, config: Any, dataset: Any, how: str) -> None:
        super().__init__(config, dataset)
        self.item_embedding = nn.Embedding(self.n_items, 4)
        self.how = how

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        states = self.item_embedding(interaction["item_id_list"]).sum(1)
        if self.how == "sum":
            return (states[:, None] * self.item_embedding.weight).sum(-1)
        product = states @ self.item_embedding.weight.T
        return {"square": product.square(), "shift": product + states[:, :1], "scaled": 3 * product + 2}[
            self.how
        ]


@pytest.mark.parametrize(
    ("how", "taken"), [("square", False), ("sum", False), ("shift", False), ("scaled", True)]
)
def test_the_product_must_explain_the_scores(
    how: str, taken: bool, tiny_config: Callable[..., Any], tiny_splits: Any
) -> None:
    torch.manual_seed(0)
    config = tiny_config()
    model, fields = Bent(config, tiny_splits.train, how), Fields.of(config)
    if not taken:
        with pytest.raises(SettingsError, match="RaBent: Bent does not score by an inner product"):
            wrap(model, tiny_splits, fields)
        return
    recommender, queries = wrap(model, tiny_splits, fields), tiny_splits.test[torch.arange(9)]
    torch.testing.assert_close(
        recommender.full_sort_predict(queries)[:, 1:],
        model.full_sort_predict(queries)[:, 1:],
        rtol=1e-4,
        atol=1e-4,
    )


def test_gradients_reach_the_model_through_states_and_items(tiny_config: Callable[..., Any]) -> None:
    model, splits, fields = load("NARM", tiny_config)
    recommender: SequentialModel = wrap(model, splits, fields)
    recommender.train()
    queries = splits.train[torch.arange(16)]
    recommender.represent(queries).sum().backward()
    assert model.gru.weight_hh_l0.grad.abs().sum() > 0
    model.zero_grad()
    recommender.item_table.sum().backward()
    assert model.item_embedding.weight.grad[1:].abs().sum() > 0


def test_its_loss_is_the_models_own(tiny_config: Callable[..., Any]) -> None:
    model, splits, fields = load("NARM", tiny_config)
    queries = splits.train[torch.arange(16)]
    recommender = wrap(model, splits, fields).eval()
    assert torch.equal(recommender.calculate_loss(queries), model.calculate_loss(queries))


def test_torch_traces_no_operation_because_of_sine(
    tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing RecBole's models turns anomaly detection on, which makes training several times slower."""
    for name in list(sys.modules):
        if name.startswith("recbole.model.sequential_recommender"):
            monkeypatch.delitem(sys.modules, name)
    tiny_config("NARM")
    assert "recbole.model.sequential_recommender.sine" in sys.modules
    assert not torch.is_anomaly_enabled()


def test_what_cannot_be_built_is_one_line(tiny_config: Callable[..., Any]) -> None:
    """FDSA reads a feature of items that this data set does not have."""
    config = tiny_config("FDSA")
    with pytest.raises(SettingsError, match="FDSA needs 'class', which neither a setting nor") as caught:
        build_base(config, Splits.load(config))
    assert "\n" not in str(caught.value)
