"""RecBole's own settings: what matters about them here, and what can be wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from importlib.util import find_spec
from typing import Any

from recbole.evaluator import metric_types, smaller_metrics

from recbole_ra.core.errors import nearest
from recbole_ra.core.setting import Setting
from recbole_ra.settings.declared import EPOCHS, MEASURE
from recbole_ra.settings.stages import STORED

TRAINED = frozenset(("backbone", "raft"))
"""Stages that everything shapes that RecBole's trainer reads."""

PLACE = "it says where files lie or how a trial is executed"
DATA = "it says how data is read, filtered and split"
CATEGORIES = {"General": PLACE, "Evaluation": MEASURE, "Dataset": DATA}
"""Why a sweep may not search a setting, by RecBole's own list that has it."""


def _setting(name: str, help: str = "", kind: type | None = None, **about: Any) -> Setting:
    """Declare one of RecBole's settings; by default it shapes what is trained."""
    about.setdefault("fixed", "" if about.get("shapes") else PLACE)
    return Setting(help, name=name, kind=kind, **about)


RECBOLE = {
    about.name: about
    for about in (
        _setting(
            "model", "what is trained", str, shapes=frozenset({"backbone"}), fixed="run one sweep per model"
        ),
        _setting("dataset", "name of a folder of atomic files", str, shapes=TRAINED, fixed=DATA),
        _setting("data_path", "folder that holds the data set's folder", str),
        _setting("checkpoint_dir", "folder of stages that are reused", str),
        _setting("config_files", "YAML files of settings; later ones win"),
        _setting("seed", "of all random draws", int, low=0, high=2**32 - 1, shapes=STORED),
        _setting("use_gpu", "false: train on the CPU"),
        _setting("gpu_id", "which GPU"),
        _setting("show_progress", "false: no bars and no line per epoch"),
        _setting("state", "RecBole's logging level", str),
        _setting(
            "MAX_ITEM_LIST_LENGTH",
            "longest history",
            int,
            low=1,
            shapes=TRAINED | {"teacher", "regenerator", "decoded"},
        ),
        _setting("epochs", "most epochs of the backbone", int, low=1, shapes=TRAINED, fixed=EPOCHS),
        _setting(
            "stopping_step",
            "epochs in a row that may gain less than stopping_margin; one more ends training",
            int,
            low=0,
            shapes=TRAINED,
            fixed=EPOCHS,
        ),
        _setting("eval_step", "epochs per validation", int, low=0, shapes=TRAINED, fixed=EPOCHS),
        _setting(
            "learning_rate",
            "of the backbone",
            float,
            low=0,
            shapes=TRAINED,
            while_training=True,
        ),
        _setting(
            "weight_decay",
            "L2 penalty of the backbone",
            float,
            low=0,
            shapes=frozenset({"backbone"}),
            while_training=True,
        ),
        _setting(
            "train_batch_size",
            "targets per step of the backbone",
            int,
            low=1,
            shapes=TRAINED,
            while_training=True,
        ),
        _setting("eval_batch_size", "most rows scored together; fewer if there are many items", int, low=1),
        _setting("metrics", "names such as [Recall, NDCG]", shapes=TRAINED, fixed=MEASURE),
        _setting("topk", "cut-offs of the metrics", shapes=TRAINED, fixed=MEASURE),
        _setting(
            "valid_metric",
            "selects the epoch; masked_… for the masked protocol, mean_… for the mean of both",
            shapes=TRAINED,
            fixed=MEASURE,
        ),
        _setting("valid_metric_bigger", "follows from valid_metric", expert=True),
        # Read by RecBole, or by its command line, without an effect on what is trained here.
        *(
            _setting(name, expert=True)
            for name in (
                "log_wandb wandb_project save_dataset dataset_save_path save_dataloaders "
                "dataloaders_save_path metric_decimal_place local_rank nproc "
                "world_size offset ip port"
            ).split()
        ),
        _setting(
            "loss_decimal_place", "digits of the loss in RecBole's log", int, low=0, high=20, expert=True
        ),
        _setting("worker", "processes that load batches of RecBole's models", int, low=0, expert=True),
        # Read by RecBole although no default file or argument list of its names them.
        *(
            _setting(name, shapes=TRAINED, expert=True)
            for name in (
                "numerical_features mask_ratio ft_ratio loss_type reg_weight require_pow enable_scaler "
                "discretization"
            ).split()
        ),
    )
}
"""RecBole's settings that need more than RecBole says of them; all others shape what is trained."""

LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")  # sparse_adam needs sparse gradients
CLIPPING = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
FILES = ("inter", "user", "item", "kg", "link", "net")
"""Endings of atomic files, of which ``load_col`` names columns."""

FIELDS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
INTERVAL = re.compile(r"[\[(]\s*([-+\w.]+)\s*,\s*([-+\w.]+)\s*[\])]")
MAPPINGS = {
    "load_col": "{inter: [user_id, item_id, timestamp]}",
    "unload_col": "{inter: [rating]}",
    "unused_col": "{inter: [timestamp]}",
    "val_interval": "{rating: '[3,inf)'}",
    "threshold": "{rating: 4}",
    "seq_len": "{categories: 10}",
    "preload_weight": "{ent_id: ent_emb}",
}
"""Settings that are mappings, each with an example."""

STATES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
IGNORED = {
    "nproc": ": --workers trains in several processes",
    "world_size": ": --workers trains in several processes",
    "save_dataset": ": the data set is read anew",
    "save_dataloaders": ": batches are made anew",
    "config_file": ": files of settings are named on the command line, by --config_files=FILE[,FILE]",
    "config_files": ": files of settings are named on the command line, by --config_files=FILE[,FILE]",
}
_GPU = r"(\d+|(GPU|MIG)-[\w/-]+)"
GPUS = rf"{_GPU}(,{_GPU})*|-1|"
"""What ``gpu_id`` may be: numbers or CUDA's names, or nothing for no GPU."""

UNLISTED = ("enable_amp", "enable_scaler", "transform", "shuffle", "worker")
"""Settings of training that RecBole reads, and none of its lists names."""

WITHOUT_CUT = ("gauc",)
"""Ranking metrics that RecBole reports without ``@k``."""


def recbole_problems(final: Mapping[str, Any], defaults: Mapping[str, Any], given: Set[str]) -> Iterator[str]:
    """Say what is wrong with settings that RecBole itself does not check, or checks too late.

    Parameters
    ----------
    final : mapping
        Merged settings.
    defaults : mapping
        The settings before what the user gave; a number there must stay a number.
    given : set of str
        What the user set, without settings of ours.
    """
    for key in sorted(given & set(defaults)):
        kind, about = type(defaults[key]), RECBOLE.get(key)
        if (about is None or about.kind is None) and kind in (bool, int, float):
            problem = Setting("", name=key, kind=kind).problem(final[key])
            if problem:
                yield problem
    for key, declared in RECBOLE.items():
        problem = declared.problem(final[key]) if key in final else None
        if problem:
            yield problem
    hidden, heads = final.get("hidden_size"), final.get("n_heads")
    if isinstance(hidden, int) and isinstance(heads, int) and (heads < 1 or hidden % heads):
        yield f"hidden_size={hidden} is not divisible by n_heads={heads}; choose a divisor"
    if str(final["learner"]).lower() not in LEARNERS:
        yield f"learner={final['learner']!r} must be one of {', '.join(LEARNERS)}"
    clip = final.get("clip_grad_norm")
    if clip is not None and not (isinstance(clip, dict) and "max_norm" in clip and set(clip) <= CLIPPING):
        yield f"clip_grad_norm={clip!r} must be a mapping such as {{max_norm: 5}}"
    elif clip is not None and not (_is_number(clip["max_norm"]) and clip["max_norm"] > 0):
        yield f"clip_grad_norm={clip!r}: max_norm must be a number above 0"
    elif clip is not None and not _is_norm(clip.get("norm_type", 2)):
        yield f"clip_grad_norm={clip!r}: norm_type must be a number above 0, or inf"
    cuts = final["topk"] if isinstance(final["topk"], list) else [final["topk"]]
    if not cuts or not all(isinstance(cut, int) and cut is not True and 0 < cut < 2**31 for cut in cuts):
        yield f"topk={final['topk']!r} must be whole numbers from 1, such as [5, 10]"
    if str(final.get("state", "INFO")).upper() not in STATES:
        yield f"state={final['state']!r} must be one of {', '.join(STATES)}"
    for key in ("field_separator", "seq_separator"):
        if key in given and not (isinstance(final[key], str) and final[key]):
            yield f"{key}={final[key]!r} must be text of at least one character"
    for key in sorted(given & set(IGNORED)):
        yield f"{key}={final[key]!r} has no effect here{IGNORED[key]}; leave it out"
    if final["use_gpu"] and not re.fullmatch(GPUS, str(final["gpu_id"]).replace(" ", "")):
        yield f"gpu_id={final['gpu_id']!r} must be numbers of GPUs such as 0 or 0,1"
    if final.get("log_wandb") and find_spec("wandb") is None:
        yield "log_wandb=True needs the package wandb: pip install wandb"
    for key, example in MAPPINGS.items():
        value = final.get(key)
        if value is not None and not isinstance(value, dict):
            yield f"{key}={value!r} must be a mapping such as {example}"
    yield from _intervals(final)
    yield from _splits(final["eval_args"], defaults["eval_args"])
    yield from _columns(final)
    yield from _metric(final)


def _is_norm(value: object) -> bool:
    try:
        return float(value) > 0  # type: ignore[arg-type]  # as torch reads it
    except (TypeError, ValueError):
        return False


def _intervals(final: Mapping[str, Any]) -> Iterator[str]:
    """RecBole only logs a warning for an interval that it cannot read, and then filters nothing."""
    for key in ("user_inter_num_interval", "item_inter_num_interval"):
        value = final.get(key)
        if value is not None and not all(_is_interval(part) for part in str(value).split(";")):
            yield f"{key}={value!r} must be an interval such as '[5,inf)', or several with ';' between them"
    by_value = final.get("val_interval")
    for field, value in (by_value if isinstance(by_value, dict) else {}).items():
        intervals = isinstance(value, str) and all(_is_interval(part) for part in value.split(";"))
        if not intervals and not (isinstance(value, list) and value):
            yield f"val_interval of {field}: {value!r} must be an interval such as '[3,inf)' or a list"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_interval(text: str) -> bool:
    found = INTERVAL.fullmatch(text.strip())
    try:
        return found is not None and float(found[1]) <= float(found[2])
    except ValueError:
        return False


def _splits(args: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for key in args:
        if key not in known:
            yield f"eval_args: unknown key {key!r}{nearest(str(key), known)}"
    if args["order"] != "TO":
        yield f"eval_args order={args['order']!r}: only 'TO' is supported, as time makes a sequence"
    if args["group_by"] not in ("user", "none", None):
        yield f"eval_args group_by={args['group_by']!r} must be user or none"
    split = args["split"]
    if not isinstance(split, dict) or len(split) != 1:
        yield f"eval_args split={split!r} must be a mapping of one entry such as {{LS: valid_and_test}}"
        return
    ((how, what),) = split.items()
    if how == "LS":
        if what not in ("valid_and_test", "valid_only", "test_only"):
            yield f"eval_args split LS={what!r} must be one of valid_and_test, valid_only, test_only"
    elif how in ("RS", "TS"):
        shares = what if isinstance(what, list) else []
        good = [share for share in shares if isinstance(share, int | float) and share >= 0]
        if len(shares) != 3 or len(good) != 3 or not sum(good):
            yield f"eval_args split {how}={what!r} must be three shares such as [0.8, 0.1, 0.1]"
    else:
        yield f"eval_args split={split!r} must be LS, RS or TS"


def _columns(final: Mapping[str, Any]) -> Iterator[str]:
    columns = final.get("load_col")
    needed = [final[key] for key in FIELDS]
    bad = [key for key, value in zip(FIELDS, needed, strict=True) if not (isinstance(value, str) and value)]
    for key in bad:
        yield f"{key}={final[key]!r} must be the name of a column"
    length = final.get("ITEM_LIST_LENGTH_FIELD")
    if length in needed:
        yield f"ITEM_LIST_LENGTH_FIELD={length!r} is the name of a column already; choose another"
    if bad or not isinstance(columns, dict):
        return
    for key in columns:
        if key not in FILES and key not in (final.get("additional_feat_suffix") or ()):
            hint = nearest(str(key), FILES)
            yield f"load_col names {key!r}, which is no file; there are {', '.join(FILES)}{hint}"
    named = columns.get("inter")
    if isinstance(final.get("unload_col"), dict):
        yield "unload_col and load_col exclude each other; --load_col= (empty) reads all columns but those"
    elif named != "*" and not (isinstance(named, list) and set(needed) <= set(named)):
        yield f"load_col={columns!r} must name the columns {', '.join(map(str, needed))} of inter"


def _metric(final: Mapping[str, Any]) -> Iterator[str]:
    chosen = final["valid_metric"]
    name, at, cut = split_metric(str(chosen))[1].partition("@")
    metrics = [metric.lower() for metric in final["metrics"]]
    if name not in metrics:
        yield f"valid_metric={chosen!r} is not among metrics={metrics}{nearest(name, metric_types)}"
    elif name in WITHOUT_CUT:
        if at:
            yield f"valid_metric={chosen!r}: {name} has no cut-off; leave out @{cut}"
    elif not cut:
        yield f"valid_metric={chosen!r} names no cut-off; write for example {chosen}@{final['topk'][0]}"
    elif cut not in {str(k) for k in final["topk"]}:
        yield f"valid_metric={chosen!r}: {cut} is not in topk"


def larger_is_better(valid_metric: str) -> bool:
    """Return whether a higher value of the metric that selects an epoch is better."""
    return split_metric(valid_metric)[1].partition("@")[0] not in smaller_metrics


def split_metric(valid_metric: str) -> tuple[str, str]:
    """Return the protocol and RecBole's name of a metric: ``Mean_NDCG@10`` -> ``mean``, ``ndcg@10``."""
    metric = valid_metric.lower()
    for protocol in ("masked", "mean"):
        if metric.startswith(f"{protocol}_"):
            return protocol, metric.removeprefix(f"{protocol}_")
    return "unmasked", metric


def metric_key(protocol: str, metric: str) -> str:
    """Return what :func:`split_metric` reads: the name of a metric under a protocol, or the mean of both."""
    return metric if protocol == "unmasked" else f"{protocol}_{metric}"
