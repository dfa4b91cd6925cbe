from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_ra.core.errors import SettingsError
from recbole_ra.models.registry import BACKBONES, available_backbones
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.files import parse_value, read_yaml

INF = float("inf")
WRONG: list[tuple[str, Any, str]] = [
    ("n_neigbors", 5, r"unknown setting 'n_neigbors' \(value 5\); did you mean 'n_neighbors'\?"),
    ("Learning_Rate", 0.1, "did you mean 'learning_rate'"),
    ("zzzzzz", 1, r"unknown setting 'zzzzzz' \(value 1\)$"),
    ("hidden_size", "big", "hidden_size='big' must be an integer"),
    ("n_heads", 3, "hidden_size=16 is not divisible by n_heads=3; choose a divisor"),
    ("hidden_size", 0, "hidden_size=0 must be >= 1"),
    ("n_layers", 0, "n_layers=0 must be >= 1"),
    ("n_heads", 0, "n_heads=0 must be >= 1"),
    ("hidden_dropout_prob", 1.5, "hidden_dropout_prob=1.5 must be between 0 and 1"),
    ("attn_dropout_prob", -0.1, "attn_dropout_prob=-0.1 must be between 0 and 1"),
    ("attn_dropout_prob", float("nan"), "attn_dropout_prob=nan must be between 0 and 1"),
    ("hidden_act", "gelu", "hidden_act='gelu': layout=published has relu"),
    ("loss_type", "XE", "loss_type='XE' must be one of CE, BPR, BCE"),
    ("epochs", "ten", "epochs='ten' must be an integer"),
    ("epochs", 2.5, "epochs=2.5 must be an integer"),
    ("epochs", True, "epochs=True must be an integer"),
    ("epochs", None, "epochs=None must be an integer"),
    ("epochs", 0, "epochs=0 must be >= 1"),
    ("seed", -1, "seed=-1 must be between 0 and 4294967295"),
    ("seed", 2**40, "seed=.* must be between 0 and 4294967295"),
    ("learning_rate", -1, "learning_rate=-1 must be >= 0"),
    ("learning_rate", "1e-3", "learning_rate='1e-3' must be a number"),
    ("balance_weight", INF, "balance_weight=inf must be finite"),
    ("balance_weight", 10**400, "balance_weight=10* must be finite"),
    ("MAX_ITEM_LIST_LENGTH", "fifty", "MAX_ITEM_LIST_LENGTH='fifty' must be an integer"),
    ("MAX_ITEM_LIST_LENGTH", None, "MAX_ITEM_LIST_LENGTH=None must be an integer"),
    ("MAX_ITEM_LIST_LENGTH", 0, "MAX_ITEM_LIST_LENGTH=0 must be >= 1"),
    ("learner", "adan", "learner='adan' must be one of adam, "),
    ("learner", "sparse_adam", "learner='sparse_adam' must be one of adam, "),
    ("clip_grad_norm", 5, "clip_grad_norm=5 must be a mapping"),
    ("clip_grad_norm", {"max": 5}, "clip_grad_norm={'max': 5} must be a mapping such as {max_norm: 5}"),
    ("clip_grad_norm", "abc", "clip_grad_norm='abc' must be a mapping"),
    ("clip_grad_norm", {"max_norm": -1}, "max_norm must be a number above 0"),
    ("clip_grad_norm", {"max_norm": "far"}, "max_norm must be a number above 0"),
    ("clip_grad_norm", {"max_norm": 5, "norm_type": "abc"}, "norm_type must be a number above 0, or inf"),
    ("clip_grad_norm", {"max_norm": 5, "norm_type": -1}, "norm_type must be a number above 0, or inf"),
    ("loss_decimal_place", -5, "loss_decimal_place=-5 must be between 0 and 20"),
    ("worker", -1, "worker=-1 must be >= 0"),
    ("ITEM_LIST_LENGTH_FIELD", "item_id", "ITEM_LIST_LENGTH_FIELD='item_id' is the name of a column already"),
    (
        "load_col",
        {"inter": ["user_id", "item_id", "timestamp"], "itme": ["item_id"]},
        "load_col names 'itme', which is no file; .* did you mean 'item'",
    ),
    ("topk", [1.5], r"topk=\[1.5\] must be whole numbers from 1"),
    ("topk", True, r"topk=\[True\] must be whole numbers from 1"),
    ("topk", [10**20], "topk=.* must be whole numbers from 1"),
    ("state", "FOO", "state='FOO' must be one of DEBUG, INFO"),
    ("seq_separator", "", "seq_separator='' must be text of at least one character"),
    ("nproc", 2, "nproc=2 has no effect here: --workers trains in several processes; leave it out"),
    ("save_dataset", True, "save_dataset=True has no effect here"),
    ("learning_rate", INF, "learning_rate=inf must be finite"),
    ("raft_batch_size", 10**30, r"raft_batch_size=10+ must be below 2\^63"),
    ("hidden_size", 10**30, r"hidden_size=10+ must be below 2\^63"),
    ("log_wandb", True, "log_wandb=True needs the package wandb"),
    ("val_interval", {"timestamp": "foo"}, "val_interval of timestamp: 'foo' must be an interval"),
    ("val_interval", {"timestamp": 3}, "val_interval of timestamp: 3 must be an interval"),
    ("val_interval", 5, "val_interval=5 must be a mapping such as"),
    ("unload_col", 5, "unload_col=5 must be a mapping such as"),
    ("unload_col", {"inter": ["rating"]}, "unload_col and load_col exclude each other"),
    ("threshold", [4], "must be a mapping such as {rating: 4}"),
    ("shuffle", False, "shuffle=False has no effect on SASRec"),
    ("transform", "mask_itemseq", "transform='mask_itemseq' has no effect on SASRec"),
    ("reproducibility", "yes", "reproducibility='yes' must be true or false"),
    ("valid_metric", "Recal@10", r"valid_metric='Recal@10' is not among metrics=.*did you mean 'recall'"),
    ("valid_metric", "MRR@10", r"valid_metric='MRR@10' is not among metrics"),
    ("valid_metric", "NDCG@7", "valid_metric='NDCG@7': 7 is not in topk"),
    ("valid_metric", "NDCG", "names no cut-off; write for example NDCG@5"),
    ("valid_metric", 10, "valid_metric=10 must be text such as NDCG@10"),
    ("metrics", ["Recal"], "There is no metric named 'Recal'"),
    ("metrics", [1], r"metrics=\[1\] must be names"),
    ("metrics", [], r"metrics=\[\] must be names"),
    ("metrics", ["RMSE"], "Full sort evaluation do not match value-based metrics"),
    ("topk", "ten", r"topk \[ten\] must be a integer, list"),
    ("topk", [0], "topk must be a positive integer"),
    ("repeatable", False, "repeatable"),
    ("user_inter_num_interval", "[5,inf", r"user_inter_num_interval='\[5,inf' must be an interval"),
    ("user_inter_num_interval", 5, "user_inter_num_interval=5 must be an interval"),
    ("item_inter_num_interval", "[9,5]", r"item_inter_num_interval='\[9,5\]' must be an interval"),
    ("eval_args", "full", "eval_args:.*should be a dict"),
    ("eval_args", {"mode": "uni100"}, "only mode 'full' is supported"),
    ("eval_args", {"order": "RO"}, "eval_args order='RO': only 'TO' is supported"),
    ("eval_args", {"group_by": "item"}, "eval_args group_by='item' must be user or none"),
    ("eval_args", {"splitt": 1}, "eval_args: unknown key 'splitt'; did you mean 'split'"),
    ("eval_args", {"split": {"RS": [0.8]}}, r"split RS=\[0.8\] must be three shares"),
    ("eval_args", {"split": {"LS": "last"}}, "LS='last' must be one of valid_and_test"),
    ("eval_args", {"split": "LS"}, "split='LS' must be a mapping"),
    ("load_col", {"inter": ["user_id"]}, "must name the columns user_id, item_id, timestamp of inter"),
    ("alpha", 1.5, "alpha=1.5 must be between 0 and 1"),
    ("n_neighbors", 0, "n_neighbors=0 must be >= 1"),
    ("memory_source", "all", "memory_source='all' must be one of enumerate, patterns, both"),
    ("index_type", "flat", "index_type='flat' must be one of Flat, "),
    ("targets_per_pass", 0, "targets_per_pass=0 must be >= 1"),
    ("resume", "no", "resume='no' must be true or false"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=[f"{key}={value}" for key, value, _ in WRONG])
def test_a_wrong_setting_is_one_line(
    key: str, value: Any, words: str, tiny_config: Callable[..., Any]
) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        tiny_config(**{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "words"), [("contrast", "uss", "one of us_x"), ("tau", 0, ">= 1e-06")]
)
def test_a_wrong_setting_of_a_model(
    key: str, value: Any, words: str, tiny_config: Callable[..., Any]
) -> None:
    with pytest.raises(SettingsError, match=f"{key}={value!r} must be {words}"):
        tiny_config("DuoRec", **{key: value})
    with pytest.raises(SettingsError, match=f"unknown setting '{key}'"):
        tiny_config("SASRec", **{key: value})


def test_negatives_that_are_not_drawn_so_are_refused(tiny_config: Callable[..., Any]) -> None:
    for wanted in ({"distribution": "popularity"}, {"sample_num": 5}, {"dynamic": True, "candidate_num": 3}):
        with pytest.raises(SettingsError, match=r"train_neg_sample_args=.* has no effect on SASRec"):
            tiny_config(loss_type="BPR", train_neg_sample_args=wanted)
    tiny_config(loss_type="BPR", train_neg_sample_args={"distribution": "uniform", "sample_num": 1})
    tiny_config(train_neg_sample_args=None)
    tiny_config("NARM", loss_type="BPR", train_neg_sample_args={"distribution": "popularity"})


def test_a_backbone_cannot_learn_where_nothing_is_fused(tiny_config: Callable[..., Any]) -> None:
    for fusion, instead in (("transitions", "raserec+transitions"), ("none", "raserec")):
        said = f"finetune='all': fusion='{fusion}' has nothing .*; use fusion={re.escape(instead)}$"
        with pytest.raises(SettingsError, match=said):
            tiny_config("RaSASRec", finetune="all", fusion=fusion)


def test_memories_that_no_training_query_may_see_are_refused(tiny_config: Callable[..., Any]) -> None:
    past = {"memory_scope": "past"}
    with pytest.raises(SettingsError, match="unknown of patterns; use memory_source=enumerate"):
        tiny_config("RaSASRec", **past, memory_source="patterns")
    with pytest.raises(SettingsError, match="unknown of patterns; use memory_source=enumerate"):
        tiny_config("RaSASRec", **past, memory_source="both")
    made = {"regenerate": "dr4sr", "memory_data": "regenerated"}
    with pytest.raises(SettingsError, match="unknown of regenerated rows"):
        tiny_config("RaSASRec", **past, **made)
    with pytest.raises(
        SettingsError, match="memory_data='regenerated' has no effect on memory_source='patterns'"
    ):
        tiny_config("RaSASRec", **made, memory_source="patterns")
    tiny_config("SASRec", **past, memory_source="patterns")


def test_all_faults_are_said_at_once(tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_config(epoch=5, alpha=2, hidden_size=15, n_heads=2)
    for words in ("'epoch'", "did you mean 'epochs'", "alpha=2", "hidden_size=15"):
        assert str(caught.value).count(words) == 1


def test_a_fault_is_said_once(tiny_config: Callable[..., Any]) -> None:
    for key, value in (("hidden_size", "x"), ("epochs", "x"), ("n_neighbors", 0), ("loss_type", "XE")):
        with pytest.raises(SettingsError) as caught:
            tiny_config(**{key: value})
        assert str(caught.value).count(f"{key}=") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- epochs\n- 5\n", "holds no settings"),
        (b"epochs\n", "holds no settings"),
        (b"epochs: 5\nmetrics: [Recall\n", "line 3: not valid YAML"),
        (b"epochs: 5\n\tseed: 1\n", "line 2: not valid YAML"),
        (b"epochs: 2020-13-45\n", "not valid YAML"),
        (b"epochs: 5\nseed: 1\nepochs: 6\n", "line 3: key 'epochs' is given twice; keep one"),
        (b"eval_args: {mode: full, mode: full}\n", "line 1: key 'mode' is given twice"),
        (b"[" * 10_000, "nested too deep"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"5: epochs\n", "5 names no setting"),
        (b"epochs: !!python/object/apply:os.system ['true']\n", "line 1: not valid YAML"),
    ],
)
def test_a_bad_file_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=words) as caught:
        RaConfig("SASRec", "tiny", [path])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: no such file; check --config_files"):
        RaConfig("SASRec", "tiny", [tmp_path / "none.yaml"])
    with pytest.raises(SettingsError, match=r"cannot be read .*; check --config_files"):
        RaConfig("SASRec", "tiny", [tmp_path])


def test_an_empty_file_holds_no_settings(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_later_files_win_and_the_call_over_all(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "one.yaml").write_text("epochs: 1\nseed: 1\ntrain_batch_size: 1\n")
    (tmp_path / "two.yaml").write_text("seed: 2\ntrain_batch_size: 2\n")
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    config = RaConfig("SASRec", "tiny", files, {"train_batch_size": 3, "data_path": str(tiny)})
    assert (config["epochs"], config["seed"], config["train_batch_size"]) == (1, 2, 3)
    assert config["eval_batch_size"] == 1024  # ours
    assert config["weight_decay"] == 1e-4  # the model's
    assert config["eval_step"] == 1  # RecBole's


def test_model_and_dataset_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: RaSASRec\ndataset: tiny\n")
    config = RaConfig(None, None, [tmp_path / "run.yaml"])
    assert (config.model, config.backbone, config.dataset, config.uses_retrieval) == (
        "RaSASRec",
        "SASRec",
        "tiny",
        True,
    )


@pytest.mark.parametrize(
    ("model", "dataset", "words"), [(None, "tiny", "--model is"), ("SASRec", None, "--dataset is")]
)
def test_what_is_missing_is_named(model: str | None, dataset: str | None, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        RaConfig(model, dataset)


def test_a_number_in_scientific_notation_is_a_number(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    (tmp_path / "lr.yaml").write_text("learning_rate: 1e-3\nalpha: 5E-1\n")
    assert read_yaml(tmp_path / "lr.yaml") == {"learning_rate": 0.001, "alpha": 0.5}
    assert tiny_config(learning_rate=parse_value("1e-3"))["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2E+5", -2e5),
        (".5", 0.5),
        ("3", 3),
        ("1e400", INF),
        ("1_000", 1000),
        ("true", True),
        ("False", False),
        ("None", None),
        ("", None),
        ("[5, 10]", [5, 10]),
        ("[5,inf)", "[5,inf)"),
        ("{LS: valid_and_test}", {"LS": "valid_and_test"}),
        ("NDCG@10", "NDCG@10"),
        ("'7'", "7"),
        ("\t", "\\t"),
        ("a: b: c", "a: b: c"),
        ("2020-13-45", "2020-13-45"),
        ("0x_", "0x_"),
        ("!!int x", "!!int x"),
        ("!!timestamp x", "!!timestamp x"),
        ("!!bool x", "!!bool x"),
        ('!!int ""', '!!int ""'),
        ("!!map [1]", "!!map [1]"),
        ("@x", "@x"),
    ],
)
def test_values_of_the_command_line(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('{}')",
        "!!python/object/apply:os.mkdir ['{}']",
        "exec('import os; os.mkdir(\"{}\")')",
    ],
)
def test_values_are_never_evaluated(text: str, tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    """RecBole's own reader calls ``eval`` on every text that it is given."""
    mark = tmp_path / "mark"
    text = text.format(mark)
    (tmp_path / "file.yaml").write_text(f"checkpoint_dir: >\n  {text}\n")
    assert parse_value(text) == text
    assert tiny_config(checkpoint_dir=text)["checkpoint_dir"] == text
    RaConfig("SASRec", "tiny", [tmp_path / "file.yaml"])
    assert not mark.exists()


def test_text_that_looks_like_code_stays_text(tiny_config: Callable[..., Any]) -> None:
    assert tiny_config(checkpoint_dir="1+1")["checkpoint_dir"] == "1+1"


def test_the_process_arguments_are_not_read(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Callable[..., Any]
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--epochs=77", "--nonsense=1"])
    assert tiny_config()["epochs"] != 77


@pytest.mark.parametrize("name", available_backbones())
def test_every_model_has_settings(name: str, tiny_config: Callable[..., Any]) -> None:
    for model in (name, f"Ra{name}"):
        config = tiny_config(model)
        assert config.backbone == name
        assert config.uses_retrieval == (model != name)
        assert (config.architecture is not None) == (name in BACKBONES)


def test_partial_evaluation_arguments_keep_the_rest(tiny_config: Callable[..., Any]) -> None:
    args = tiny_config(eval_args={"split": {"RS": [0.8, 0.1, 0.1]}})["eval_args"]
    assert args == {
        "split": {"RS": [0.8, 0.1, 0.1]},
        "order": "TO",
        "group_by": "user",
        "mode": {"valid": "full", "test": "full"},
    }


@pytest.mark.parametrize(
    ("metric", "larger"),
    [("Recall@5", True), ("masked_Recall@5", True), ("GiniIndex@5", False), ("masked_GiniIndex@5", False)],
)
def test_which_way_a_metric_selects(metric: str, larger: bool, tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(metrics=["Recall", "GiniIndex"], topk=5, valid_metric=metric)
    assert config["valid_metric_bigger"] is larger


def test_negatives_are_drawn_for_pairwise_losses_only(tiny_config: Callable[..., Any]) -> None:
    assert tiny_config("NARM", hidden_size=16)["train_neg_sample_args"]["distribution"] == "none"
    assert tiny_config("NARM", loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"


def test_the_cpu_is_used_where_asked(tiny_config: Callable[..., Any]) -> None:
    assert tiny_config().torch_device.type == "cpu"


@pytest.mark.parametrize(("key", "value"), [("model", 5), ("dataset", 2014)])
def test_names_that_yaml_takes_for_numbers(key: str, value: int, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"{key}: {value}\n")
    names = {"model": "SASRec", "dataset": "ml-100k", key: None}
    with pytest.raises(SettingsError, match=f"{key}={value} must be text; in YAML, put it between quotes"):
        RaConfig(names["model"], names["dataset"], [file])


def test_a_value_that_is_wrong_by_itself_is_compared_with_no_other() -> None:
    with pytest.raises(SettingsError, match=r"^graph_origins=5 must be text$"):
        RaConfig("GNN", "ml-100k", overrides={"graph_origins": 5, "regenerate": "dr4sr"})


@pytest.mark.parametrize(
    ("model", "settings", "unread"),
    [
        ("SASRec", {"metric_decimal_place": 4}, "metric_decimal_place: model=SASRec"),
        ("SASRec", {"personalize_learning_rate": 0.1}, "personalize_learning_rate: personalize=none"),
        ("SASRec", {"personalize_learning_rate": 0.1, "regenerate": "patterns+"}, ""),
        ("SASRec", {"personalize_learning_rate": 0.1, "regenerate": "auto"}, ""),
        ("RaSASRec", {"index_type": "Flat", "nlist": 4}, "nlist: index_type=Flat"),
        ("RaSASRec", {"nlist": 4}, ""),
        ("SASRec", {"regenerate": "dr4sr", "diversity": False, "n_latents": 3}, "n_latents: diversity=False"),
        ("SASRec", {"regenerate": "dr4sr", "variant": "released", "gamma": 0.3}, "gamma: variant=released"),
        (
            "NARM",
            {"personalize_learning_rate": 1, "regenerate": "auto"},
            "personalize_learning_rate: personalize=none",
        ),
        ("SASRec", {"clip_grad_norm": {"max_norm": 5, "norm_type": "inf"}}, ""),
        ("SASRec", {"n_negatives": 3}, "n_negatives: loss_type=CE"),
        ("SASRec", {"n_negatives": 3, "loss_type": "BCE"}, ""),
        ("BSARec", {"targets_per_pass": 3, "length_groups": 3}, "targets_per_pass: model=BSARec"),
        ("BERT4Rec", {"length_groups": 3}, "length_groups: model=BERT4Rec"),
        (
            "DR4SR",
            {"epochs": 3, "enable_amp": True, "learner": "adam"},
            "enable_amp: model=DR4SR; epochs: model=DR4SR",
        ),
        ("SASRec", {"gamma": 0.3}, "gamma: model=SASRec, regenerate=none"),
    ],
    ids=str,
)
def test_what_other_settings_leave_without_a_reader_is_named(
    model: str, settings: dict[str, Any], unread: str, tiny_config: Callable[..., Any]
) -> None:
    config = tiny_config(model, **settings)
    assert "; ".join(f"{name}: {why}" for name, why in config.without_effect(settings).items()) == unread


def test_of_a_condition_that_is_searched_nothing_follows(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config("RaSASRec", index_type="Flat")
    assert config.without_effect(["nlist"], ["index_type"]) == {}


@pytest.mark.parametrize("given", [4, 2])
def test_metrics_are_compared_in_full(given: int, tiny_config: Callable[..., Any]) -> None:
    assert tiny_config("SASRec", metric_decimal_place=given)["metric_decimal_place"] == 17


@pytest.mark.parametrize("key", ["config_file", "config_files"])
def test_a_file_of_settings_in_the_wrong_place_is_told(key: str, tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match=rf"{key}='x.yaml' has no effect here: .*--config_files=FILE"):
        tiny_config("SASRec", **{key: "x.yaml"})
    with pytest.raises(SettingsError, match=r"unknown setting 'config'.*'config_files'"):
        tiny_config("SASRec", config="x.yaml")


def test_a_data_set_is_named_and_not_a_path() -> None:
    with pytest.raises(SettingsError, match=r"dataset='./tiny' must be the name of a folder; .*--data_path"):
        RaConfig("SASRec", "./tiny", (), {})


def test_a_value_that_grows_when_it_is_printed_is_cut(tiny_config: Callable[..., Any]) -> None:
    value: Any = "lol"
    for _ in range(12):
        value = [value] * 9
    with pytest.raises(SettingsError, match="unknown setting 'laughs'") as caught:
        tiny_config("SASRec", laughs=value)
    assert len(str(caught.value)) < 10_000


def test_a_training_without_a_validated_epoch_is_refused(tiny_config: Callable[..., Any]) -> None:
    with pytest.raises(SettingsError, match="eval_step=10 validates none of epochs=5 epochs; use 5 or less"):
        tiny_config(epochs=5, eval_step=10)
    with pytest.raises(SettingsError, match="eval_step=4 validates none of raft_epochs=3 epochs"):
        tiny_config("RaSASRec", epochs=5, raft_epochs=3, eval_step=4)
    tiny_config("RaSASRec", epochs=5, raft_epochs=3, eval_step=4, fusion="transitions")


def test_a_plus_personalises_whatever_a_file_says(tiny_config: Callable[..., Any]) -> None:
    config = tiny_config("SASRec", regenerate="patterns+", personalize="none")
    assert config.personalisation.personalize == "bilevel"
