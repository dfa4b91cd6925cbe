"""Whole runs on a small data set: every kind of model, bank and fine-tuning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_ra import Result, load, run
from recbole_ra.core.errors import CheckpointError, RecboleRaError, SettingsError
from recbole_ra.models.registry import READ_FEATURES
from recbole_ra.retrieval import finetuning
from walks import silent

pytestmark = pytest.mark.usefixtures("undrawn")


def of_recbole(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for a model of RecBole's: without the architecture of ours."""
    return {k: v for k, v in settings.items() if k not in ("hidden_size", "inner_size", "n_layers")}


@pytest.mark.parametrize("model", ["RaSASRec", "RaGNN", "RaGRU4Rec", "RaBERT4Rec", "RaNARM"])
def test_every_kind_of_backbone_is_augmented(model: str, shared_settings: dict[str, Any]) -> None:
    own = model in ("RaSASRec", "RaDuoRec")
    settings = shared_settings if own else of_recbole(shared_settings)
    if model == "RaBERT4Rec":  # learns from masked items, and slowly
        settings |= {"epochs": 15, "learning_rate": 2e-3, "ema_decay": 0.0}
    result = run(model, **settings, say=silent)
    assert set(result.test) == {"unmasked", "masked"}
    assert {entry["stage"] for entry in result.history} == {model.removeprefix("Ra"), "RAFT"}
    for metrics in (*result.test.values(), *result.backbone_test.values()):
        assert 0 <= metrics["recall@5"] <= metrics["recall@10"] <= metrics["recall@20"] <= 1
        assert metrics["recall@5"] > 0.35  # by chance .17


def test_second_start_trains_nothing_again(settings: dict[str, Any]) -> None:
    first = run("RaSASRec", **settings, say=silent)
    second = run("RaSASRec", **settings, say=silent)
    assert first.reused == []
    assert second.reused == ["backbone", "bank", "raft"]
    assert second.test == first.test
    assert second.history == first.history


def test_a_reused_stage_tells_its_epochs_again(settings: dict[str, Any]) -> None:
    reported: list[list[dict[str, Any]]] = []
    for _ in range(2):
        reported.append([])
        epochs = reported[-1]
        result = run("RaSASRec", **settings, say=silent, on_epoch=epochs.append)
    assert [(entry["stage"], entry["epoch"]) for entry in reported[0]] == [
        *(("SASRec", epoch) for epoch in range(4)),
        *(("RAFT", epoch) for epoch in range(3)),
    ]
    assert all(entry.pop("checkpoint").endswith("last.pt") for entry in reported[0])
    assert reported[1] == reported[0] == result.history


def test_a_stage_goes_on_from_another_one_with_other_settings(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    def keep_second_epoch(entry: Any) -> None:
        if entry["stage"] == "RAFT" and entry["epoch"] == 1:
            shutil.copytree(Path(entry["checkpoint"]).parent, tmp_path / "second")

    whole = run("RaSASRec", **settings, say=silent, on_epoch=keep_second_epoch)
    start = tmp_path / "second" / "last.pt"
    with pytest.raises(CheckpointError, match=r"nowhere/last\.pt: no such checkpoint"):
        run("RaSASRec", **settings, start_from=start.parent / "nowhere" / "last.pt", say=silent)
    same = run("RaSASRec", **settings, start_from=start, say=silent)
    assert same.reused == ["backbone", "bank"]
    assert [{**entry, "seconds": 0} for entry in same.history] == [
        {**entry, "seconds": 0} for entry in whole.history
    ]
    assert same.test == whole.test
    faster = run("RaSASRec", **settings, raft_learning_rate=0.03, start_from=start, say=silent)
    assert [entry["loss"] for entry in faster.history[:-1]] == [e["loss"] for e in whole.history[:-1]]
    assert faster.history[-1]["loss"] != whole.history[-1]["loss"]
    before = {*(tmp_path / "saved").glob("raft-*")}
    weighed = run("RaSASRec", **settings, alpha=0.99, start_from=start, say=silent)
    assert weighed.history[-1]["loss"] != whole.history[-1]["loss"]
    (made,) = {*(tmp_path / "saved").glob("raft-*")} - before
    best = torch.load(made / "best.pt", weights_only=True)
    # Only the last epoch was measured with this alpha, so it is the best that there is.
    assert best["best_valid_score"] == weighed.history[-1]["mean_ndcg@10"]
    assert best["best_valid_score"] < max(entry["mean_ndcg@10"] for entry in weighed.history)


def test_the_test_split_is_left_alone_while_settings_are_chosen(settings: dict[str, Any]) -> None:
    result = run("RaSASRec", **settings, evaluate_test=False, say=silent)
    assert result.test == {}
    assert result.backbone_test is None
    assert "validation, unmasked" in result.table()
    whole = run("RaSASRec", **settings, say=silent)
    assert whole.reused == ["backbone", "bank", "raft"]
    assert whole.valid == result.valid


def test_changed_inputs_are_not_reused(settings: dict[str, Any]) -> None:
    run("RaSASRec", **settings, say=silent)
    assert run("RaSASRec", **settings, alpha=0.7, say=silent).reused == ["backbone", "bank"]
    assert run("RaSASRec", **{**settings, "index_type": "HNSW"}, say=silent).reused == ["backbone"]
    assert run("RaSASRec", **settings, targets_per_pass=1, say=silent).reused == []
    assert run("RaSASRec", **{**settings, "seed": 7}, say=silent).reused == []


@pytest.mark.parametrize(
    "change",
    [
        {"memory_source": "patterns"},
        {"memory_source": "both", "beta": 0.5},
        {"memory_scope": "past"},
        {"finetune": "all"},
        {"loss_type": "BPR"},
        {"index_type": "Torch", "extend_with_validation": False},
        {"index_type": "IVFFlat", "nlist": 4, "nprobe": 2},
        {"metrics": ["Recall", "NDCG", "MRR", "ItemCoverage"], "clip_grad_norm": {"max_norm": 1.0}},
        {"enable_amp": True},
        {"eval_step": 2, "learner": "adamw", "weight_decay": 0.01},
    ],
    ids=lambda change: ",".join(change),
)
def test_options_run_to_a_test_result(change: dict[str, Any], shared_settings: dict[str, Any]) -> None:
    result = run("RaSASRec", **{**shared_settings, **change}, say=silent)
    assert result.test["unmasked"]["recall@5"] > 0.5  # by chance .17
    assert result.settings["dataset"] == "walks"


def test_sparse_products_train_in_mixed_precision(shared_settings: dict[str, Any]) -> None:
    """Torch has none of half precision on a CPU."""
    result = run("GNN", **{**shared_settings, "enable_amp": True}, say=silent)
    assert result.test["unmasked"]["recall@5"] > 0.3  # by chance .17


@pytest.mark.draws
def test_the_run_folder_holds_what_is_promised(settings: dict[str, Any]) -> None:
    result = run("RaSASRec", **settings, say=silent)
    folder = Path(result.folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "alpha.png",
        "learning_curve.png",
        "mixture_weight.png",
        "model",
        "result.json",
        "retrieval_gain.png",
        "table.txt",
        "tensorboard",
    ]
    for stage in ("backbone", "raft"):
        events = EventAccumulator(str(folder / "tensorboard" / stage)).Reload()
        epochs = [event.step for event in events.Scalars("Loss/Train")]
        assert epochs
        assert epochs == list(range(len(epochs)))
    saved = json.loads((folder / "result.json").read_text())
    assert saved["test"] == result.test
    assert saved["data"]["train"] == result.data["train"] > 0
    assert saved["settings"]["n_neighbors"] == 5
    assert saved["settings"]["extend_with_validation"] is True  # left at its default
    assert {"data", "backbone", "bank", "raft", "test"} <= set(saved["seconds"])
    assert Result.load(folder).test == result.test
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_latest_names_the_last_run_that_left_a_recommender(settings: dict[str, Any], tmp_path: Path) -> None:
    latest = tmp_path / "runs" / "latest"
    for _ in range(2):
        result = run("SASRec", **settings, say=silent)
        assert latest.resolve() == Path(result.folder).resolve()
        assert load(latest).about.model == "SASRec"
    run("SASRec", **settings, evaluate_test=False, say=silent)  # as trials of a sweep
    run("SASRec", **settings, save_model=False, say=silent)
    assert latest.resolve() == Path(result.folder).resolve()
    assert len(list((tmp_path / "runs").glob("*/model"))) == 3  # two, and the link's


def test_where_links_are_impossible_the_run_goes_on(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("links are not supported here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    said: list[str] = []
    result = run("SASRec", **settings, say=said.append)
    assert any("latest does not name this run (links are not supported here)" in line for line in said)
    assert load(result.folder).about.model == "SASRec"

    (tmp_path / "runs" / "latest").mkdir()
    said.clear()
    run("SASRec", **settings, say=said.append)
    assert any("is no link" in line for line in said)


@pytest.mark.parametrize("model", ["SASRecF", *(f"Ra{name}" for name in READ_FEATURES)])
def test_a_model_that_reads_features_leaves_no_recommender(
    model: str, settings: dict[str, Any], walks: Path, tmp_path: Path
) -> None:
    shutil.copytree(walks, tmp_path / "own")
    rows = ["item_id:token\tclass:token_seq", *(f"i{item}\tc{item % 5}" for item in range(30))]
    (tmp_path / "own" / "walks" / "walks.item").write_text("\n".join(rows) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}
    said: list[str] = []
    result = run(
        model,
        **{**of_recbole(settings), "data_path": str(tmp_path / "own"), "epochs": 1, "load_col": columns},
        say=said.append,
    )
    assert any(
        f"no recommender is kept: {model.removeprefix('Ra')} reads more of the data set" in line
        for line in said
    )
    assert not (Path(result.folder) / "model").exists()
    assert not (Path(result.folder).parent / "latest").exists()


def test_titles_that_cannot_be_read_cost_no_recommender(
    settings: dict[str, Any], walks: Path, tmp_path: Path
) -> None:
    shutil.copytree(walks, tmp_path / "own")
    titles = "item_id:token\ttitle:token\ni1\tCafé\n"
    (tmp_path / "own" / "walks" / "walks.item").write_text(titles, encoding="latin-1")
    said: list[str] = []
    own = {**settings, "data_path": str(tmp_path / "own"), "epochs": 1}
    result = run("SASRec", **own, say=said.append)
    assert any("walks.item: is not UTF-8 text" in line and "without titles" in line for line in said)
    assert (Path(result.folder) / "model").is_dir()


@pytest.mark.parametrize("model", ["RaNARM", "RaBERT4Rec"])
def test_a_backbone_of_recbole_learns_on(model: str, shared_settings: dict[str, Any]) -> None:
    settings = {**of_recbole(shared_settings), "finetune": "all", "raft_epochs": 2}
    result = run(model, **settings, say=silent)
    first, last = (entry["loss"] for entry in result.history if entry["stage"] == "RAFT")
    assert last < first


def test_other_features_train_another_backbone(settings: dict[str, Any], walks: Path, tmp_path: Path) -> None:
    shutil.copytree(walks, tmp_path / "own")
    features = tmp_path / "own" / "walks" / "walks.item"
    reading = {
        **of_recbole(settings),
        "data_path": str(tmp_path / "own"),
        "epochs": 1,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
    }
    reused = []
    for n_classes in (5, 4, 4):
        rows = [f"i{item}\tc{item % n_classes}" for item in range(30)]
        features.write_text("\n".join(["item_id:token\tclass:token_seq", *rows]) + "\n")
        reused.append(run("SASRecF", **reading, say=silent).reused)
    assert reused == [[], [], ["backbone"]]


def test_a_given_backbone_is_used(settings: dict[str, Any], walks: Path, tmp_path: Path) -> None:
    trained = run("SASRec", **settings, say=silent)
    (checkpoint,) = (tmp_path / "saved").glob("backbone-*/best.pt")
    result = run("RaSASRec", **settings, backbone_checkpoint=str(checkpoint), say=silent)
    assert result.backbone_test == trained.test
    given = {**settings, "backbone_checkpoint": str(checkpoint), "say": silent}
    with pytest.raises(CheckpointError, match="holds model SASRec, not DuoRec"):
        run("RaDuoRec", **given)
    with pytest.raises(CheckpointError, match=r"other training rows .* held out here"):
        run("SASRec", **given, eval_args={"split": {"LS": "valid_only"}})
    with pytest.raises(CheckpointError, match="was trained with n_heads=1, not 4; set it to match"):
        run("RaSASRec", **given, n_heads=4)
    with pytest.raises(CheckpointError, match="was trained with MAX_ITEM_LIST_LENGTH=50, not 40"):
        run("RaSASRec", **given, MAX_ITEM_LIST_LENGTH=40)
    with pytest.raises(CheckpointError, match="was trained on other rows than regenerate=patterns gives"):
        run("SASRec", **given, regenerate="patterns")


def test_a_damaged_artifact_is_named_and_made_again(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = run("RaSASRec", **settings, say=silent)
    damaged = {
        "backbone": "best.pt",
        "bank": "train_states.npy",
        "raft": "history.json",
    }
    for stage, name in damaged.items():
        (path,) = (tmp_path / "saved").glob(f"{stage}-*/{name}")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        said: list[str] = []
        again = run("RaSASRec", **settings, say=said.append)
        assert [line for line in said if f"{stage}: {path.absolute()} was changed; made again" in line]
        assert again.reused == [kept for kept in damaged if kept != stage]
        assert (again.test, again.valid) == (whole.test, whole.valid)


def test_settings_without_effect_are_named(settings: dict[str, Any]) -> None:
    said: list[str] = []
    run("SASRec", **settings, alpha=0.3, gamma=0.9, say=said.append)
    assert said[0].startswith("without effect with model=SASRec, regenerate=none: alpha, gamma, index_type, ")


def test_settings_that_the_fusion_has_no_use_for_are_named(settings: dict[str, Any]) -> None:
    said: list[str] = []
    changes = {"fusion": "transitions", "raft_epochs": 3, "ram_heads": 1, "alpha": 0.3, "mixture_weight": 0.9}
    run("RaSASRec", **{**settings, **changes}, say=said.append)
    assert said[0].startswith(
        "without effect with model=RaSASRec, regenerate=none, fusion=transitions: alpha, "
    )
    assert {"alpha", "raft_epochs", "ram_heads"} <= {*said[0].split(": ")[1].split(", ")}
    assert "mixture_weight" not in said[0]


def test_a_checkpoint_holds_the_epoch_that_it_is_of(settings: dict[str, Any], tmp_path: Path) -> None:
    trained = run("SASRec", **settings, say=silent)
    (checkpoint,) = (tmp_path / "saved").glob("backbone-*/best.pt")
    given = run("SASRec", **settings, backbone_checkpoint=str(checkpoint), say=silent)
    best = trained.best_epochs("mean_ndcg@10", bigger=True)["SASRec"]
    assert given.history == trained.history[: best + 1]


def test_without_validation_epochs_are_told_and_resumed(settings: dict[str, Any]) -> None:
    reported: list[int] = []

    def stop_at_once(entry: Mapping[str, Any]) -> None:
        reported.append(entry["epoch"])
        if len(reported) == 2:
            raise KeyboardInterrupt

    without = {**settings, "eval_step": 0, "say": silent}
    with pytest.raises(KeyboardInterrupt):
        run("SASRec", **without, on_epoch=stop_at_once)
    said: list[str] = []
    resumed = run("SASRec", **{**without, "resume": True, "say": said.append})
    assert reported == [0, 1]
    assert "SASRec: continues after epoch 1" in said
    assert [entry["epoch"] for entry in resumed.history] == [0, 1, 2, 3]


def test_refusals_come_before_any_training(settings: dict[str, Any], tmp_path: Path) -> None:
    wide = {"metrics": ["Recall", "NDCG", "ItemCoverage"], "topk": [10, 50]}
    with pytest.raises(SettingsError, match="ask for 50 recommendations, but there are 30 items"):
        run("SASRec", **settings, **wide, say=silent)
    with pytest.raises(RecboleRaError, match="no folder can be made there"):
        run("SASRec", **{**settings, "checkpoint_dir": "/proc/no/such"}, say=silent)
    with pytest.raises(SettingsError, match="does not score by an inner product"):
        run("RaTransRec", "walks", data_path=settings["data_path"], checkpoint_dir=settings["checkpoint_dir"])
    with pytest.raises(SettingsError, match="ram_heads=3 does not divide 64, the width of NARM's states"):
        run("RaNARM", **of_recbole(settings), ram_heads=3, say=silent)
    assert not list((tmp_path / "saved").glob("*"))
    with pytest.raises(SettingsError, match="n_neighbors=5000 but the memory bank holds only"):
        run("RaSASRec", **{**settings, "n_neighbors": 5000}, say=silent)
    lists = {"index_type": "IVFFlat", "nlist": 5000}
    with pytest.raises(SettingsError, match="nlist=5000 but the memory bank holds only"):
        run("RaSASRec", **{**settings, **lists}, say=silent)
    assert not list((tmp_path / "saved").glob("*"))


def test_an_average_begins_where_the_start_has_none(settings: dict[str, Any], tmp_path: Path) -> None:
    run("SASRec", **{**settings, "ema_decay": 0.0}, say=silent)
    (last,) = (tmp_path / "saved").glob("backbone-*/last.pt")
    longer = {**settings, "ema_decay": 0.9, "epochs": 5}
    result = run("SASRec", **longer, start_from=last, say=silent)
    assert [entry["epoch"] for entry in result.history] == [0, 1, 2, 3, 4]


def test_the_callback_sees_validation_only(settings: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []
    result = run("SASRec", **settings, say=silent, on_epoch=lambda entry: seen.append(dict(entry)))
    assert [entry["epoch"] for entry in seen] == [0, 1, 2, 3]
    best = result.best_epochs("mean_ndcg@10", bigger=True)["SASRec"]
    assert seen[best]["mean_ndcg@10"] == max(entry["mean_ndcg@10"] for entry in seen)
    assert seen[best]["ndcg@10"] == result.valid["unmasked"]["ndcg@10"]


def test_weights_are_chosen_as_the_test_is_run(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation pairs of the others are memories then, a row's own is not; nothing of it stays."""
    seen: dict[str, Any] = {}

    def choose(recommender: Any, held_out: Any, *rest: Any) -> Any:
        train = len(recommender.bank) - len(held_out.dataset)
        for batch in held_out:
            query, rows = batch.query, torch.from_numpy(batch.rows)
            assert (query.followed == batch.targets).all()
            later = (query.ids >= train) & query.valid
            seen["later"] = seen.get("later", 0) + int(later.sum())
            assert not (later & (query.ids - train == rows[:, None])).any()
        seen["bank"] = len(recommender.bank)
        return chosen(recommender, held_out, *rest)

    chosen = finetuning.choose
    monkeypatch.setattr(finetuning, "choose", choose)
    result = run("RaSASRec", **settings, say=silent)
    assert seen["bank"] == result.memory["memories_at_test"] > result.memory["memories"]
    assert seen["later"] > 0


@pytest.mark.parametrize("extends", [True, False])
def test_no_row_is_asked_whose_user_has_later_pairs_in_the_bank(
    extends: bool, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transitions know of no time: what a user did later would vote for a row of the same user."""
    asked: list[int] = []

    def choose(recommender: Any, held_out: Any, *rest: Any) -> Any:
        for batch in held_out:
            asked.extend(batch.rows)
        prefixes = held_out.dataset.prefixes
        last = {user: max(prefixes.position[prefixes.users == user]) for user in prefixes.users}
        late = [row for row in asked if prefixes.position[row] == last[prefixes.users[row]]]
        assert len(last) < len(prefixes)  # users with several rows
        assert sorted(asked) == (sorted(late) if extends else [*range(len(prefixes))])
        assert len(late) == len(last)
        return chosen(recommender, held_out, *rest)

    chosen = finetuning.choose
    monkeypatch.setattr(finetuning, "choose", choose)
    shares = {"split": {"RS": [0.6, 0.2, 0.2]}}
    run("RaSASRec", **settings, eval_args=shares, extend_with_validation=extends, say=silent)
    assert asked
