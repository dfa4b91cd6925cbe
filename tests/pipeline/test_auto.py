"""Training data is chosen on validation, and what was chosen is what a run that names it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_ra import run
from recbole_ra.core.errors import DataError, SettingsError
from recbole_ra.pipeline.auto import NAMES, DataChoice, kinds
from recbole_ra.retrieval.choice import Candidate
from walks import silent

pytestmark = pytest.mark.usefixtures("undrawn")


def candidate(kind: str, gain: float, masked: float | None = None, error: float = 0.01) -> Candidate:
    gains = {"unmasked": gain, "masked": gain if masked is None else masked}
    gains["mean"] = sum(gains.values()) / 2
    return Candidate({"regenerate": kind}, gains, gains, dict.fromkeys(gains, error))


@pytest.mark.parametrize(
    ("gains", "chosen"),
    [
        ([(0.019,), (0.01,)], "none"),
        ([(0.021,), (0.03,)], "dr4sr"),
        ([(0.021,), (0.08, -0.02)], "patterns"),
        ([(0.05, -0.02), (0.0, 0.01)], "none"),
    ],
    ids=["nothing beyond two errors", "the best", "what harms one protocol is out", "nothing is left"],
)
def test_what_is_chosen(gains: list[tuple[float, ...]], chosen: str) -> None:
    tried = [candidate("none", 0.0)]
    tried += [candidate(kind, *gain) for kind, gain in zip(("patterns", "dr4sr"), gains, strict=True)]
    found = DataChoice.among(tried, "ndcg@10", "mean", with_memories=False)
    assert found.chosen == chosen
    assert found.summary().startswith(
        "training data: " + ("originals, as" if chosen == "none" else NAMES[chosen])
    )
    for kind, gain in zip(("patterns", "DR4SR"), gains, strict=True):
        assert (
            f"{kind} mean {sum((*gain, *gain)[:2]) / 2:+.4f} ± 0.0100, unmasked {gain[0]:+.4f}"
            in found.summary()
        )


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets a kind of training data help, and no other, whatever was measured."""
    helps = Candidate.helps

    def force(kind: str) -> None:
        def only(self: Candidate, protocol: str) -> bool:
            tried = self.setting.get("regenerate")
            return helps(self, protocol) if tried is None else tried == kind

        monkeypatch.setattr(Candidate, "helps", only)

    return force


@pytest.mark.parametrize(("model", "kind"), [("SASRec", "dr4sr+"), ("RaSASRec", "patterns")])
def test_the_run_goes_on_with_what_was_chosen(
    model: str, kind: str, regenerating: dict[str, Any], forced: Callable[[str], None]
) -> None:
    lines: list[str] = []
    epochs: list[tuple[str, int]] = []
    forced(kind)
    auto = {**regenerating, "regenerate": "auto", "reuse": False, "show_progress": True}
    found = run(
        model,
        **auto,
        say=lines.append,
        on_epoch=lambda epoch: epochs.append((epoch["stage"], epoch["epoch"])),
    )
    choice = found.regeneration["choice"]
    assert choice["chosen"] == kind
    kinds = [one["setting"]["regenerate"] for one in choice["candidates"]]
    assert kinds == ["none", "patterns", "dr4sr", "dr4sr+"]
    assert choice["candidates"][0]["gain"] == {"unmasked": 0.0, "masked": 0.0, "mean": 0.0}
    assert found.regeneration["note"] in lines
    assert found.regeneration["note"] in found.table()
    assert (Path(found.folder) / "training_data.png").exists()

    # Nothing is trained twice, and the result tells of the training that counts, once.
    stages = ["SASRec", "RAFT"] if model == "RaSASRec" else ["SASRec"]
    for stage in stages:
        assert len([line for line in lines if line.startswith(f"{stage} epoch 0:")]) == len(kinds)
    assert found.reused == []
    assert found.seconds["backbone"] > sum(
        one["seconds"] for one in found.history if one["stage"] == "SASRec"
    )
    assert epochs == [(one["stage"], one["epoch"]) for one in found.history]
    assert {*stages} == {stage for stage, _ in epochs}

    named = run(model, **{**regenerating, "regenerate": kind}, say=silent)
    assert named.test == found.test
    assert {"backbone", *(["raft"] if model.startswith("Ra") else [])} <= set(named.reused)
    events = {path.name for path in (Path(found.folder) / "tensorboard").iterdir()}
    assert {path.name for path in (Path(named.folder) / "tensorboard").iterdir()} <= events
    wanted = next(one for one in choice["candidates"] if one["setting"]["regenerate"] == kind)
    if model == "SASRec":
        value = found.valid["unmasked"]["ndcg@10"]
    else:  # what is compared is the model with its memories, as their weights were chosen
        assert "ndcg@10, with memories, over the originals" in found.regeneration["note"]
        step = found.memory["choice"]["steps"][-1]
        value = next(
            one["value"]["unmasked"] for one in step["candidates"] if one["setting"] == step["chosen"]
        )
    assert value == pytest.approx(wanted["value"]["unmasked"], abs=1e-4)


def test_settings_of_regenerated_rows_leave_the_originals_alone(regenerating: dict[str, Any]) -> None:
    plain = run("SASRec", **{**regenerating, "regenerate": "none"}, say=silent)
    weighed = {"regenerate": "auto", "row_weight": "both", "min_multiplicity": 2, "evaluate_test": False}
    found = run("SASRec", **{**regenerating, **weighed}, say=silent)
    choice = found.regeneration["choice"]
    assert [one["setting"]["regenerate"] for one in choice["candidates"]] == ["none", "patterns", "dr4sr"]
    before = choice["candidates"][0]["value"]["unmasked"]
    assert before == pytest.approx(plain.valid["unmasked"]["ndcg@10"], abs=1e-4)


def test_a_graph_of_the_originals_is_the_whole_one_where_they_alone_train(
    regenerating: dict[str, Any],
) -> None:
    short = {**regenerating, "epochs": 2, "evaluate_test": False, "regenerate_origins": "original+pattern"}
    plain = run("GNN", **{**short, "regenerate": "none"}, say=silent)
    found = run("GNN", **{**short, "regenerate": "auto", "graph_origins": "original"}, say=silent)
    tried = found.regeneration["choice"]["candidates"]
    assert [one["setting"]["regenerate"] for one in tried] == ["none", "patterns"]
    before = tried[0]["value"]["unmasked"]
    assert before == pytest.approx(plain.valid["unmasked"]["ndcg@10"], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"export_dir": "there"}, "export_dir='there': regenerate=auto may choose the originals"),
        (
            {"memory_data": "regenerated"},
            "memory_data='regenerated': regenerate=auto may choose the originals",
        ),
        (
            {"backbone_checkpoint": "best.pt"},
            "backbone_checkpoint='best.pt': regenerate=auto trains a backbone",
        ),
        ({"regenerate_origins": "original"}, "regenerate=auto would choose among originals alone"),
        ({"personalize": "bilevel"}, "personalize='bilevel': regenerate=auto tries DR4SR with and without"),
        ({"start_from": Path("last.pt")}, "start_from goes on with one training"),
    ],
)
def test_what_asks_for_one_training_data(
    change: dict[str, Any], message: str, regenerating: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=message):
        run("RaSASRec", **{**regenerating, "regenerate": "auto", **change}, say=silent)


@pytest.mark.parametrize(
    ("origins", "tried"),
    [
        ("original+pattern", ["none", "patterns"]),
        ("original+regenerated", ["none", "dr4sr", "dr4sr+"]),
        ("regenerated", ["none", "dr4sr", "dr4sr+"]),
    ],
)
def test_only_kinds_that_have_rows_are_tried(
    origins: str, tried: list[str], tiny_config: Callable[..., Any]
) -> None:
    config = tiny_config("SASRec", regenerate="auto", regenerate_origins=origins)
    assert [kind for kind, _ in kinds(config)] == tried


def test_that_nothing_is_regenerated_is_known_before_anything_is_trained(
    regenerating: dict[str, Any],
) -> None:
    lines: list[str] = []
    with pytest.raises(DataError, match="no pattern occurs in 99999 sequences"):
        run("SASRec", **{**regenerating, "regenerate": "auto", "min_support": 99999}, say=lines.append)
    assert not any(line.startswith("SASRec epoch") for line in lines)


def test_there_is_something_to_choose_on(regenerating: dict[str, Any]) -> None:
    split = {"split": {"LS": "test_only"}}
    with pytest.raises(
        DataError, match="regenerate=auto chooses on validation rows, but the split leaves none"
    ):
        run("SASRec", **{**regenerating, "regenerate": "auto", "eval_args": split}, say=silent)
