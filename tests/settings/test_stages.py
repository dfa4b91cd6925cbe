"""Changing a setting changes the keys of the stages that it shapes and of those after them, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from recbole_ra.core.errors import SettingsError
from recbole_ra.core.files import digest
from recbole_ra.core.setting import Setting
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.recbole import RECBOLE
from recbole_ra.settings.stages import STAGES, stages_before

EVERYTHING = {
    "regenerate": "dr4sr",
    "memory_source": "both",
    "memory_data": "regenerated",
    "fidelity_rank": 5,
    "inner_size": 16,
    "teacher_epochs": 1,
    "regenerator_epochs": 2,
    "regenerator_width": 16,
    "regenerator_inner": 16,
    "epochs": 1,
    "raft_epochs": 1,
    "n_neighbors": 3,
}
# What another value of a setting asks of others.
GOES_WITH: dict[str, dict[str, Any]] = {
    "memory_scope": {"memory_source": "enumerate", "memory_data": "original"}
}
# What another value of the same kind would not do.
OTHER: dict[str, Any] = {
    "regenerate": "patterns",
    "regenerate_origins": "original+pattern",
    "loss_type": "BPR",
    "seed": 7,
    "decode_length": 10,
    "valid_metric": "Recall@10",
    "metrics": ["NDCG"],
    "topk": [10],
    "learner": "sgd",
    "memory_scope": "past",
    "personalize_origins": "pattern",
    "state": "WARNING",
    "user_inter_num_interval": "[2,inf)",
}


def keys(config: RaConfig) -> dict[str, str]:
    """Keys of all stages of a run in which each reads all that it declares."""
    found: dict[str, str] = {}
    for name, stage in STAGES.items():
        found[name] = digest([config.shaping(name), {before: found[before] for before in stage.after}])
    return found


def another(name: str, about: Setting, value: Any, file: Path) -> Any:
    """A valid value that differs."""
    if name in OTHER:
        return OTHER[name]
    if about.path:
        return str(file)
    if isinstance(value, bool):
        return not value
    if about.choices:
        return next(choice for choice in about.choices if choice != value)
    if isinstance(value, int):
        return value + 2
    if isinstance(value, float):
        return value / 2 if value else 0.25
    return "other"


@pytest.fixture
def base(tiny_config: Callable[..., Any]) -> RaConfig:
    return tiny_config("RaDuoRec", **EVERYTHING)


def stages_after(names: Iterable[str]) -> frozenset[str]:
    """Return the stages, and those that read their results, directly or not."""
    found = set(names)
    for name, stage in STAGES.items():
        if found & set(stage.after):
            found.add(name)
    return frozenset(found)


def test_every_setting_of_ours_shapes_what_it_says(
    base: RaConfig, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "given.pt"
    file.write_bytes(b"given")
    for name, about in base.own.items():
        settings = {**EVERYTHING, **GOES_WITH.get(name, {})}
        before = keys(tiny_config("RaDuoRec", **settings))
        value = another(name, about, base.everything[name], file)
        after = keys(tiny_config("RaDuoRec", **{**settings, name: value}))
        changed = {stage for stage in STAGES if after[stage] != before[stage]}
        # What the backbone's own default files name (DuoRec's tau) shapes the backbone too.
        assert changed == stages_after(base.about(name).shapes), name


def test_every_setting_of_recbole_shapes_what_it_says(
    base: RaConfig, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    before = keys(base)
    names = [name for names in base.parameters.values() for name in names]
    tried = 0
    for name in dict.fromkeys([*names, *RECBOLE]):
        value = base.final_config_dict.get(name)
        varies = name in OTHER or isinstance(value, bool | int | float)
        if name in base.own or name in ("model", "dataset") or not varies:
            continue
        other = another(name, base.about(name), value, tmp_path)
        try:
            config = tiny_config("RaDuoRec", **{**EVERYTHING, name: other})
        except SettingsError:  # a value that goes with others only
            continue
        changed = {stage for stage in STAGES if keys(config)[stage] != before[stage]}
        assert changed == stages_after(base.about(name).shapes), name
        tried += 1
    assert tried > 12


def test_what_a_file_holds_counts_and_not_its_name(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    def of(name: str, content: bytes) -> dict[str, str]:
        (tmp_path / name).write_bytes(content)
        return keys(tiny_config("RaSASRec", backbone_checkpoint=str(tmp_path / name)))

    assert of("a.pt", b"1") == of("b.pt", b"1")
    assert of("a.pt", b"1")["backbone"] != of("a.pt", b"2")["backbone"]


def test_a_run_reads_each_stage_that_it_declares(tiny: Path, tmp_path: Path) -> None:
    """The declared order is the real one: the stored artifacts name the keys that they were made from."""
    import json

    from recbole_ra.pipeline.runner import run

    options: Mapping[str, Any] = {
        **EVERYTHING,
        "data_path": str(tiny),
        "output_dir": str(tmp_path / "runs"),
        "checkpoint_dir": str(tmp_path / "saved"),
        "MAX_ITEM_LIST_LENGTH": 8,
        "hidden_size": 16,
        "use_gpu": False,
        "show_progress": False,
    }
    run("RaSASRec", "tiny", say=lambda line: None, **options)
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "saved").glob("*/manifest.json")]
    read = {manifest["stage"]: manifest["inputs"]["after"] for manifest in manifests}
    assert read.keys() == {name for name, stage in STAGES.items() if stage.stored}
    assert all(set(after) == set(STAGES[stage].after) for stage, after in read.items())
    made = {manifest["stage"]: manifest["key"] for manifest in manifests}
    for after in read.values():
        for stage, key in after.items():
            assert STAGES[stage].stored is False or made[stage] == key


def test_the_graph() -> None:
    assert stages_before("rows") == {"patterns", "teacher", "regenerator", "decoded"}
    assert stages_before("teacher") == set()


def test_a_stage_may_not_read_what_it_does_not_declare(
    tiny_config: Callable[..., Any], tiny_splits: Any, tmp_path: Path
) -> None:
    from recbole_ra.core.store import ArtifactStore
    from recbole_ra.training.run import Run

    state = Run(tiny_config(), tiny_splits, ArtifactStore(tmp_path), print)
    with pytest.raises(ValueError, match="stage backbone declares"):
        state.content("backbone", {"bank": "x"})
