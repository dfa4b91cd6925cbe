"""DR4SR+: what is weighed, what is kept, and that harmful rows lose weight."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.data.table import Origin, Prefixes, SequenceTable
from recbole_ra.models.backbone import EncoderBackbone
from recbole_ra.models.personalizer import Personalizer
from recbole_ra.models.recommenders import BackboneRecommender
from recbole_ra.models.sasrec import SASRec, SASRecSettings
from recbole_ra.pipeline.runner import run
from recbole_ra.settings.declared import PersonalisationSettings
from recbole_ra.training import personalisation
from recbole_ra.training.hypergradient import hypergradient
from recbole_ra.training.personalisation import PersonalizedTrainer
from walks import silent


@pytest.fixture
def settings(shared_settings: dict[str, Any]) -> dict[str, Any]:
    return {
        **shared_settings,
        "personalize_warmup": 0,
        "personalize_interval": 2,
        "train_batch_size": 64,
        "epochs": 3,
    }


def test_a_personalizer_without_noise_is_a_softmax() -> None:
    torch.manual_seed(0)
    model, states = Personalizer(4), torch.randn(9, 4)
    with torch.no_grad():
        model.tau.fill_(0.2)  # clipped below at 1
    logits = model.outer(torch.relu(model.inner(states)))
    torch.testing.assert_close(model.eval()(states), logits.softmax(-1)[:, 0])
    first, second = model.train()(states), model(states)
    assert not torch.equal(first, second)
    assert ((first > 0) & (first < 1)).all()


def test_tau_is_clipped_and_goes_on_learning() -> None:
    torch.manual_seed(0)
    model, states = Personalizer(4), torch.randn(9, 4)
    with torch.no_grad():
        model.tau.fill_(0.9)
    model.clip()
    model.eval()(states).sum().backward()
    assert model.tau.item() == 1
    assert model.tau.grad is not None
    assert model.tau.grad.item() != 0


def test_as_released_weights_begin_at_a_half() -> None:
    torch.manual_seed(0)
    model = Personalizer(64, "released")
    with torch.no_grad():
        weights = model.eval()(torch.randn(99, 64))
        noisy = model.train()(torch.randn(9999, 64))
    torch.testing.assert_close(weights, torch.full((99,), 0.5), atol=3e-3, rtol=0)
    assert model.tau.item() == 10
    assert not model.tau.requires_grad
    assert 0.03 < noisy.std().item() < 0.06  # the noise of two Gumbel variables, π / √3, over 4 τ


@pytest.mark.parametrize("kind", ["patterns+", "patterns"])
@pytest.mark.parametrize("personalize", ["bilevel", "end-to-end"])
def test_a_run_on_personalised_data(kind: str, personalize: str, settings: dict[str, Any]) -> None:
    said: list[str] = []
    result = run("RaSASRec", **settings, regenerate=kind, personalize=personalize, say=said.append)
    origins = result.personalisation["origins"]
    assert origins["original"]["mean"] == 1
    assert 0 < origins["pattern"]["mean"] < 1
    assert len(result.personalisation["most"]) == 10
    weights = [row["weight"] for row in result.personalisation["most"]]
    assert weights == sorted(weights, reverse=True)
    folder = Path(result.folder)
    assert (folder / "personalisation.png").read_bytes().startswith(b"\x89PNG")
    assert "most trusted" in (folder / "personalisation.txt").read_text()
    assert {row["origin"] for row in result.personalisation["most"]} == {"pattern"}
    assert json.loads((folder / "result.json").read_text())["personalisation"] == result.personalisation
    assert (result.personalisation["moves"] or 0) > 0 or personalize == "end-to-end"
    assert not any("no weight was learned" in line for line in said)
    again = run("RaSASRec", **settings, regenerate=kind, personalize=personalize, say=silent)
    assert again.reused == ["backbone", "bank", "raft"]
    assert (again.test, again.personalisation) == (result.test, result.personalisation)


def test_weights_that_were_never_learned_are_told(settings: dict[str, Any]) -> None:
    said: list[str] = []
    result = run("SASRec", **{**settings, "personalize_warmup": 9}, regenerate="patterns+", say=said.append)
    assert result.personalisation["moves"] == 0
    assert any("no weight was learned" in line and "personalize_warmup=9" in line for line in said)


def test_the_released_variant(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up without weights; judged on all rows; the slope lacks the factor of the step."""
    plain: list[bool] = []
    slopes: list[torch.Tensor] = []
    move, loss = PersonalizedTrainer.move_upper, EncoderBackbone.calculate_loss

    def moving(self: PersonalizedTrainer, batch: Any) -> None:
        before = [p.clone() for p in self._learned]
        move(self, batch)
        if len(slopes) == 1:  # the first step of momentum is the slope itself
            moved = before[1] - self._learned[1]
            rate = settings["personalize_learning_rate"]
            decayed = slopes[0] + personalisation.DECAY * before[1] * personalisation.STEP
            torch.testing.assert_close(moved / rate * personalisation.STEP, decayed, rtol=1e-3, atol=1e-9)
        judged.update(self.judges.prefixes.table.origin[self.judges.prefixes.sequence].tolist())

    def slope(*given: Any, **more: Any) -> Any:
        found = hypergradient(*given, **more)
        slopes.append(found[1])
        return found

    def calculate(self: EncoderBackbone, batch: Any) -> torch.Tensor:
        plain.append(batch.weigh is None)
        return loss(self, batch)

    judged: set[int] = set()
    monkeypatch.setattr(PersonalizedTrainer, "move_upper", moving)
    monkeypatch.setattr(personalisation, "hypergradient", slope)
    monkeypatch.setattr(EncoderBackbone, "calculate_loss", calculate)
    settings |= {"personalize_variant": "released", "personalize_warmup": 1, "personalize_learning_rate": 0.1}
    result = run("SASRec", **settings, regenerate="patterns+", say=silent)
    assert plain[0]
    assert not plain[-1]
    assert plain == sorted(plain, reverse=True)
    assert judged == {Origin.ORIGINAL, Origin.PATTERN}
    assert result.personalisation["moves"] == len(slopes) > 0


def test_a_killed_training_goes_on_as_if_it_had_not_been(settings: dict[str, Any], tmp_path: Path) -> None:
    """The upper level's momentum and its place are part of a checkpoint."""
    kept = {**settings, "checkpoint_dir": str(tmp_path / "whole")}
    whole = run("SASRec", **kept, regenerate="patterns+", say=silent)

    class Killed(Exception):
        pass

    def kill(entry: Any) -> None:
        if entry["epoch"] == 1:
            raise Killed

    kept["checkpoint_dir"] = str(tmp_path / "killed")
    with pytest.raises(Killed):
        run("SASRec", **kept, regenerate="patterns+", on_epoch=kill, say=silent)
    resumed = run("SASRec", **kept, regenerate="patterns+", resume=True, say=silent)
    assert resumed.test == whole.test
    assert resumed.personalisation == whole.personalisation


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"personalize": "bilevel"}, "no row of personalize_origins='pattern\\+regenerated' trains"),
        ({"personalize": "bilevel", "personalize_origins": "patern"}, "did you mean 'pattern'"),
        ({"regenerate": "patterns+", "model": "NARM"}, "NARM is none of them"),
        ({"regenerate": "patterns+", "workers": 2}, "use one worker"),
        ({"regenerate": "patterns+", "regenerate_origins": "original"}, "no row of personalize_origins"),
    ],
)
def test_contradictions(change: dict[str, Any], said: str, tiny_config: Callable[..., Any]) -> None:
    from recbole_ra.core.errors import SettingsError

    model = change.pop("model", "SASRec")
    with pytest.raises(SettingsError, match=said):
        tiny_config(model, **change)


@pytest.mark.parametrize("model", ["DuoRec", "MELTSASRec"])
def test_weights_are_judged_by_the_next_item_loss_alone(
    model: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contrastive loss, or that of MELT's branches, says nothing of the rows that were drawn."""
    judged: list[float] = []

    def by_hand(upper: torch.Tensor, *rest: Any, **more: Any) -> Any:
        judged.append(upper.item())
        return hypergradient(upper, *rest, **more)

    def without_more(self: Any, states: torch.Tensor, batch: Any) -> torch.Tensor:
        loss = next_item(self, states, batch)
        losses.append(loss.item())
        return loss

    losses: list[float] = []
    next_item = EncoderBackbone.recommendation_loss
    monkeypatch.setattr(EncoderBackbone, "recommendation_loss", without_more)
    monkeypatch.setattr(personalisation, "hypergradient", by_hand)
    result = run(model, **{**settings, "epochs": 1}, regenerate="patterns+", say=silent)
    assert judged
    assert set(judged) <= set(losses)
    assert 0 < result.personalisation["origins"]["pattern"]["mean"] < 1


def test_batches_of_originals_are_taken_one_after_another() -> None:
    """Each once before any a second time, and the same after a break."""
    table = SequenceTable.from_arrays(np.tile(np.arange(1, 7), 10), np.arange(0, 61, 6), 8)
    feed = functools.partial(
        SequenceBatches, Prefixes.all_of(table, 6), batch_size=9, targets_per_pass=1, n_groups=1, seed=0
    )
    drawn: list[list[int]] = []
    trainer = PersonalizedTrainer.__new__(PersonalizedTrainer)
    trainer.settings = PersonalisationSettings(personalize_interval=3)
    for start in (0, 4):
        trainer.judges, trainer._judging = feed(), None
        for number in range(start, 12):
            trainer._lower_steps = 3 * number
            rows = trainer._next_judges().rows.tolist()
            if start:
                assert rows == drawn[number]
            else:
                drawn.append(rows)
    assert sorted(itertools.chain(*drawn[:6])) == list(range(50))
    assert drawn[:6] != drawn[6:]


def test_rows_that_harm_lose_weight(
    tiny_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known answer: patterns go around the ring the wrong way, originals and the others the right way."""
    # As published its steps are too small to see on so little data.
    monkeypatch.setattr(personalisation, "STEP", 0.1)
    monkeypatch.setattr(personalisation, "DECAY", 0.0)
    n, rng = 12, np.random.default_rng(0)

    def walks(first: list[int], direction: int) -> list[list[int]]:
        """From anywhere on the ring, after a first item that tells what kind of rows these are."""
        return [
            [first[row % len(first)], *((start + direction * step) % n + 1 for step in range(5))]
            for row, start in enumerate(rng.integers(0, n, 60))
        ]

    right, wrong, good = walks([13, 14], 1), walks([13], -1), walks([14], 1)
    items = np.array(right + wrong + good)
    table = SequenceTable.from_arrays(
        items.reshape(-1),
        np.arange(0, items.size + 1, 6),
        n + 3,
        origin=np.repeat([Origin.ORIGINAL, Origin.PATTERN, Origin.REGENERATED], 60),
    )
    torch.manual_seed(0)
    backbone = SASRec(
        n + 3, 6, SASRecSettings(hidden_size=16, inner_size=16, hidden_dropout_prob=0, attn_dropout_prob=0)
    )
    backbone.personalise()
    config = tiny_config("SASRec", regenerate="patterns+", epochs=60, learning_rate=0.01, weight_decay=0.0)
    trainer = PersonalizedTrainer(
        config,
        BackboneRecommender(backbone, None),  # type: ignore[arg-type]
        folder=tmp_path,
        identity={},
        stage="SASRec",
        train_dataset=None,
    )
    rows = Prefixes.all_of(table, 6)
    feed = SequenceBatches(rows, batch_size=300, targets_per_pass=5, n_groups=1, seed=0)
    originals = SequenceBatches(
        Prefixes.all_of(table.head(np.where(np.arange(180) < 60, 6, 0)), 6),
        batch_size=300,
        targets_per_pass=5,
        n_groups=1,
        seed=1,
    )
    wish = PersonalisationSettings(
        personalize="bilevel",
        personalize_warmup=2,
        personalize_interval=1,
        personalize_learning_rate=1.0,
    )
    trainer.personalise(wish, rows, originals)
    for epoch in range(60):
        trainer._train_epoch(feed, epoch)
    backbone.eval()
    assert backbone.personalizer is not None
    with torch.no_grad():
        weights = np.zeros(len(rows))
        for batch in feed:
            weights[batch.rows.numpy()] = backbone.personalizer(backbone.target_states(batch))
    origin = table.origin[rows.sequence]
    late = rows.position > 1  # the first item does not tell which way it goes
    means = {one: weights[(origin == one.value) & late].mean() for one in Origin}
    assert means[Origin.PATTERN] < 0.8 * means[Origin.REGENERATED]


def test_only_rows_that_are_weighed_are_the_most_or_least_trusted(settings: dict[str, Any]) -> None:
    weighs = {"personalize": "bilevel", "personalize_origins": "original"}
    result = run("SASRec", **settings, regenerate="patterns", **weighs, say=silent)
    assert result.personalisation["origins"]["pattern"]["mean"] == 1
    assert result.personalisation["most"] == result.personalisation["least"] == []
