"""What holds for every backbone of ours.

One pass gives the states of all prefixes where places are counted from the start; counted from the end, a
pass over a longer history moves its prefixes away from where they stand by themselves.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_ra.core.errors import SettingsError
from recbole_ra.data.batching import SequenceBatches, TrainBatch
from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.models.backbone import Backbone
from recbole_ra.models.encoders import POSITIONS
from recbole_ra.models.registry import BACKBONES, SEQUENTIAL_MODELS_OF_RECBOLE, backbone_name
from recbole_ra.models.softmax import half_in_softmax_alone

N_ITEMS, MAX_LENGTH = 12, 8
every_backbone = pytest.mark.parametrize("name", BACKBONES)


def walks() -> SequenceTable:
    """Random walks, long enough that every position of a model is used."""
    rng = np.random.default_rng(0)
    return SequenceTable.from_arrays(rng.integers(1, N_ITEMS, 60), np.arange(0, 61, 10), N_ITEMS)


def build(name: str, seed: int = 0, **changes: Any) -> Backbone:
    """A small model, with those of the changes that it has a setting for."""
    torch.manual_seed(seed)
    kind = BACKBONES[name].Settings
    own = {field.name for field in fields(kind)}
    wanted = {"hidden_size": 16, "inner_size": 32, "embedding_size": 16, **changes}
    settings = replace(kind(), **{key: value for key, value in wanted.items() if key in own})
    model = BACKBONES[name](N_ITEMS, MAX_LENGTH, settings)
    model.see(walks())
    return model


def batch_for(model: Backbone) -> TrainBatch:
    """All rows of the walks."""
    table = walks()
    feed = SequenceBatches(
        Prefixes.all_of(table, MAX_LENGTH),
        batch_size=99,
        targets_per_pass=3 if model.causal else 1,
        n_groups=2,
        seed=0,
        with_positives=model.needs_positives,
    )
    return next(iter(feed))


def histories(rows: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([1, 2, 5, 7, 8, 8])[:rows]
    items = torch.randint(1, N_ITEMS, (rows, MAX_LENGTH), generator=generator)
    return items.masked_fill(torch.arange(MAX_LENGTH) >= lengths[:, None], 0), lengths


@every_backbone
@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_the_loss_is_finite_and_moves_every_parameter(name: str, loss_type: str) -> None:
    model = build(name, loss_type=loss_type).train()
    loss = model.calculate_loss(batch_for(model))
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@every_backbone
def test_steps_lower_the_loss(name: str) -> None:
    model = build(name, hidden_dropout_prob=0.0, attn_dropout_prob=0.0, dropout_prob=0.0).train()
    batch, optimizer = batch_for(model), torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@every_backbone
def test_one_pass_encodes_every_prefix(name: str) -> None:
    model = build(name, positions="start").eval()
    if not model.causal:
        pytest.skip(f"{name} is not causal")
    items, _ = histories()
    whole = items[-1:]
    states = model.encode(whole)
    for length in range(1, MAX_LENGTH + 1):
        alone = model.represent(whole[:, :length], torch.tensor([length]))
        torch.testing.assert_close(states[:, length - 1], alone)


@every_backbone
def test_training_states_are_those_of_the_prefixes(name: str) -> None:
    """What the loss sees is what ``represent`` gives for the same histories."""
    model = build(name, positions="start").eval()
    if not model.causal:
        pytest.skip(f"{name} is not causal")
    batch = batch_for(model)
    states = model.target_states(batch)
    assert states.shape == (len(batch.targets), model.width)
    first = 0
    for group in batch.groups:
        for slot in group.slot.tolist():
            visit, nth = divmod(slot, group.at.shape[1])
            length = group.at[visit, nth] + 1
            alone = model.represent(group.items[visit : visit + 1, :length], length[None])
            torch.testing.assert_close(states[first], alone[0])
            first += 1


@every_backbone
def test_mixed_precision_on_a_cpu_is_of_the_softmax_alone(name: str) -> None:
    model = build(name).eval()
    batch = batch_for(model)
    exact = model.trained_states(batch)
    expected = model.recommendation_loss(exact, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16), half_in_softmax_alone(torch.device("cpu")):
        states = model.trained_states(batch)
        loss = model.recommendation_loss(states, batch)
        model.calculate_loss(batch).backward()
    torch.testing.assert_close(states, exact)
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    assert loss != expected


@every_backbone
def test_trailing_padding_and_company_mean_nothing(name: str) -> None:
    model = build(name).eval()
    items, lengths = histories()
    states = model.represent(items, lengths)
    assert states.shape == (len(items), model.width)
    for row, length in enumerate(lengths.tolist()):
        alone = model.represent(items[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(states[row], alone[0])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(
    "name", [name for name in BACKBONES if hasattr(BACKBONES[name].Settings, "positions")]
)
def test_positions_are_counted_from_where_the_setting_says(name: str, positions: str) -> None:
    model = build(name, positions=positions, hidden_dropout_prob=0.0).eval()
    items, lengths = histories()
    there = torch.arange(MAX_LENGTH) < lengths[:, None]
    place = torch.arange(MAX_LENGTH) + (0 if positions == "start" else MAX_LENGTH - lengths[:, None])
    expected = model.norm(model.vectors(items) + model.position_embedding(place.clamp(max=MAX_LENGTH - 1)))
    torch.testing.assert_close(model.embed(items)[there], expected[there])


@every_backbone
def test_the_order_of_the_history_matters(name: str) -> None:
    model = build(name).eval()
    items, length = torch.tensor([[3, 5, 9, 2, 7]]), torch.tensor([5])
    swapped = items[:, [1, 0, 2, 3, 4]]
    assert not torch.allclose(model.represent(items, length), model.represent(swapped, length), atol=1e-4)


@every_backbone
@pytest.mark.parametrize("per_pass", [1, 4])
def test_both_ways_of_feeding_give_the_same_states(name: str, per_pass: int) -> None:
    """Prefix rows, and where the encoder is causal several targets of a pass."""
    model = build(name, **({"positions": "start"} if per_pass > 1 else {})).eval()
    if not model.causal and per_pass > 1:
        pytest.skip(f"{name} reads prefix rows only")
    prefixes = Prefixes.all_of(walks(), MAX_LENGTH)
    feed = SequenceBatches(prefixes, batch_size=20, targets_per_pass=per_pass, n_groups=3, seed=0)
    for batch in feed:
        rows = prefixes[batch.rows.numpy()]
        whole = rows.position <= MAX_LENGTH // 2  # of later ones a pass may see less of the history
        alone = model.represent(torch.from_numpy(rows.items()), torch.from_numpy(rows.lengths))
        torch.testing.assert_close(model.target_states(batch)[whole], alone[whole], rtol=1e-4, atol=1e-5)


@every_backbone
def test_the_item_table_covers_the_vocabulary(name: str) -> None:
    model = build(name)
    assert model.item_table.shape == (N_ITEMS, model.width)


@every_backbone
def test_saved_weights_give_the_same_scores(name: str, tmp_path: Path) -> None:
    model, other = build(name).eval(), build(name, seed=1).eval()
    query = histories()
    scores = model.represent(*query) @ model.item_table.T
    assert not torch.allclose(other.represent(*query) @ other.item_table.T, scores)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other.represent(*query) @ other.item_table.T, scores)


@every_backbone
def test_the_seed_decides_the_weights_and_the_loss(name: str) -> None:
    def loss(seed: int) -> float:
        model = build(name, seed).train()
        return model.calculate_loss(batch_for(model)).item()

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


@every_backbone
def test_names_of_models(name: str) -> None:
    assert backbone_name(name) == backbone_name(f"Ra{name}") == name


def test_names_of_models_of_recbole() -> None:
    for name in SEQUENTIAL_MODELS_OF_RECBOLE:
        assert backbone_name(f"Ra{name}") == backbone_name(name) == name


@pytest.mark.parametrize(
    ("name", "meant"), [("SASREC", "SASRec"), ("RaGRU4Rek", "RaGRU4Rec"), ("duorec", "DuoRec")]
)
def test_unknown_models_are_named_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown model '{name}'; did you mean '{meant}'?"):
        backbone_name(name)
