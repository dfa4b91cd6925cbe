"""Our SASRec is RecBole's: with its weights it gives its states, losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.models.sasrec import SASRec, SASRecSettings


def renamed(theirs: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """RecBole's parameter names to ours; queries, keys and values become one matrix."""
    ours = {name: theirs[name] for name in ("item_embedding.weight", "position_embedding.weight")}
    for kind in ("weight", "bias"):
        ours[f"norm.{kind}"] = theirs[f"LayerNorm.{kind}"]
        for i in range(n_layers):
            attention = f"trm_encoder.layer.{i}.multi_head_attention"
            feed_forward = f"trm_encoder.layer.{i}.feed_forward"
            ours[f"encoder.attentions.{i}.qkv.{kind}"] = torch.cat(
                [theirs[f"{attention}.{name}.{kind}"] for name in ("query", "key", "value")]
            )
            ours[f"encoder.attentions.{i}.out.{kind}"] = theirs[f"{attention}.dense.{kind}"]
            ours[f"encoder.attentions.{i}.norm.{kind}"] = theirs[f"{attention}.LayerNorm.{kind}"]
            ours[f"encoder.feed_forwards.{i}.inner.{kind}"] = theirs[f"{feed_forward}.dense_1.{kind}"]
            ours[f"encoder.feed_forwards.{i}.outer.{kind}"] = theirs[f"{feed_forward}.dense_2.{kind}"]
            ours[f"encoder.feed_forwards.{i}.norm.{kind}"] = theirs[f"{feed_forward}.LayerNorm.{kind}"]
    return ours


@pytest.fixture(params=[(1, 1), (2, 2), (3, 4)], ids=lambda pair: "{} layers, {} heads".format(*pair))
def pair(
    request: pytest.FixtureRequest, tiny_config: Callable[..., Any], tiny_splits: Any
) -> tuple[Any, SASRec]:
    """RecBole's model and ours with the same weights, none of them at its initial value."""
    from recbole.model.sequential_recommender.sasrec import SASRec as RecBoleSASRec

    n_layers, n_heads = request.param
    config = tiny_config(
        "SASRec",
        layout="recbole",
        label_smoothing=0.0,
        positions="start",
        inner_size=256,
        n_layers=n_layers,
        n_heads=n_heads,
        hidden_dropout_prob=0.0,
        attn_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    theirs = RecBoleSASRec(config, tiny_splits.train)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = SASRec(tiny_splits.whole.item_num, config["MAX_ITEM_LIST_LENGTH"], config.architecture)
    ours.load_state_dict(renamed(theirs.state_dict(), n_layers))
    return theirs, ours


def test_states_and_scores_are_those_of_recbole(pair: tuple[Any, SASRec], tiny_splits: Any) -> None:
    theirs, ours = (model.eval() for model in pair)
    rows = tiny_splits.test[list(range(len(tiny_splits.test)))]
    items, lengths = rows["item_id_list"], rows["item_length"]
    assert lengths.min() < lengths.max() == items.shape[1]
    states = ours.represent(items, lengths)
    torch.testing.assert_close(states, theirs.forward(items, lengths), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        states @ ours.item_table.T, theirs.full_sort_predict(rows), rtol=1e-4, atol=1e-4
    )


def test_a_row_that_begins_later_has_later_positions() -> None:
    torch.manual_seed(0)
    model = SASRec(9, 6, SASRecSettings(positions="start")).eval()
    items = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
    plain, later = model.encode(items), model.encode(items, first=torch.tensor([3, 0]))
    torch.testing.assert_close(later[1], plain[1])
    with torch.no_grad():
        model.position_embedding.weight.copy_(model.position_embedding.weight.roll(-3, 0))
    torch.testing.assert_close(later[0, :3], model.encode(items)[0, :3])


def test_the_layout_torch_is_that_of_torchs_encoder() -> None:
    """DR4SR's authors put vectors and positions into ``nn.TransformerEncoder``, no LayerNorm before it."""
    torch.manual_seed(0)
    shape = SASRecSettings(
        layout="torch",
        positions="start",
        n_heads=2,
        inner_size=12,
        hidden_dropout_prob=0.5,
        attn_dropout_prob=0.5,
    )
    ours = SASRec(9, 6, shape)
    layer = nn.TransformerEncoderLayer(64, 2, 12, 0.5, "gelu", 1e-12, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    for number, block in enumerate(theirs.layers):
        attention, feed_forward = ours.encoder.attentions[number], ours.encoder.feed_forwards[number]
        block.load_state_dict(
            {
                f"{theirs_name}{kind}": getattr(ours_part, kind.removeprefix("_").removeprefix("."))
                for theirs_name, ours_part, form in (
                    ("self_attn.in_proj", attention.qkv, "_"),
                    ("self_attn.out_proj", attention.out, "."),
                    ("norm1", attention.norm, "."),
                    ("linear1", feed_forward.inner, "."),
                    ("linear2", feed_forward.outer, "."),
                    ("norm2", feed_forward.norm, "."),
                )
                for kind in (f"{form}weight", f"{form}bias")
            }
        )
    items = torch.tensor([[1, 2, 3, 4, 5, 6], [8, 7, 8, 1, 2, 2]])
    ours.eval()
    theirs.eval()
    inputs = ours.item_table[items] + ours.position_embedding.weight
    expected = theirs(inputs, mask=torch.ones(6, 6, dtype=torch.bool).triu(1))
    torch.testing.assert_close(ours.encode(items), expected, rtol=1e-4, atol=1e-5)
    # Of the dropouts: torch's layer has four, of which one lies in the attention itself.
    assert [block.inside.p for block in ours.encoder.feed_forwards] == [0.5, 0.5]


@pytest.mark.parametrize("positions", [1, 4])
def test_losses_and_gradients_are_those_of_recbole(
    pair: tuple[Any, SASRec], tiny_splits: Any, positions: int
) -> None:
    """Also with several targets a pass, where no history is cut."""
    theirs, ours = (model.train() for model in pair)
    prefixes = tiny_splits.train.prefixes
    whole = prefixes.position <= prefixes.max_length
    feed = SequenceBatches(prefixes[whole], batch_size=64, targets_per_pass=positions, n_groups=3, seed=0)
    batch = next(iter(feed))
    loss = ours.calculate_loss(batch)
    loss.backward()
    expected = theirs.calculate_loss(tiny_splits.train[whole.nonzero()[0][batch.rows.numpy()]])
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    slopes = renamed({name: p.grad for name, p in theirs.named_parameters()}, len(ours.encoder.attentions))
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, slopes[name], rtol=1e-3, atol=1e-5, msg=name)
