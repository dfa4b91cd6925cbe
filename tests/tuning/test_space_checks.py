"""Checking a search space against the settings of the run it is for."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from recbole_ra.core.errors import SettingsError
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.files import props_root
from recbole_ra.tuning.space import Parameter, Space, check_space, default_point, read_space

QUIET = {"use_gpu": False}
SHIPPED = {
    "raft": ("RaSASRec", {}),
    "bank": ("RaSASRec", {}),
    "dr4sr": ("SASRec", {"regenerate": "dr4sr"}),
    "fig2": ("RaDuoRec", {}),
    "SASRec": ("SASRec", {}),
    "DuoRec": ("RaDuoRec", {}),
    "backbone": ("NARM", {}),
}


def checked(*parameters: Parameter, model: str = "RaSASRec", **settings: Any) -> str:
    """What the settings say of a space, without the name of its file."""
    config = RaConfig(model, "ml-100k", (), {**QUIET, **settings})
    with pytest.raises(SettingsError) as caught:
        check_space(Space(Path("s.yaml"), parameters), config, settings)
    assert str(caught.value).startswith("s.yaml: ")
    return str(caught.value).removeprefix("s.yaml: ")


@pytest.mark.parametrize(
    ("name", "model", "settings"),
    [
        ("alpha", "SASRec", {}),
        ("memory_source", "SASRec", {"regenerate": "dr4sr"}),
        ("gamma", "RaSASRec", {}),
        ("window", "RaSASRec", {}),
        ("alpha", "RaSASRec", {"fusion": "transitions"}),
        ("mixture_weight", "RaSASRec", {"fusion": "raserec"}),
    ],
)
def test_what_nothing_reads_is_not_searched(name: str, model: str, settings: dict[str, Any]) -> None:
    parameter = Parameter(name, "choice", ("enumerate",) if name == "memory_source" else (1,))
    said = checked(parameter, model=model, **settings)
    fusion = f", fusion={settings.get('fusion', 'raserec+transitions')}" if model == "RaSASRec" else ""
    assert (
        said == f"{name} has no effect with model={model}, "
        f"regenerate={settings.get('regenerate', 'none')}{fusion}"
    )


def test_what_one_of_the_trials_reads_is_searched() -> None:
    parameters = (
        Parameter("fusion", "choice", ("transitions", "raserec")),
        Parameter("alpha", "choice", (0.3,)),
    )
    config = RaConfig("RaSASRec", "ml-100k", (), {**QUIET, "fusion": "transitions"})
    check_space(Space(Path("s.yaml"), parameters), config, {})


@pytest.mark.parametrize("file", sorted((props_root() / "tune").iterdir()), ids=lambda file: file.name)
def test_a_shipped_space_is_accepted_and_holds_the_defaults(file: Path) -> None:
    model, settings = SHIPPED[file.stem]
    space, started = read_space(file), perf_counter()
    config = RaConfig(model, "ml-100k", (), {**QUIET, **settings})
    check_space(space, config, settings)
    assert perf_counter() - started < 5
    point = default_point(space, config)
    assert point is not None
    assert tuple(point) == space.names
    comment, *lines = file.read_text().splitlines()
    assert f"--space={file.stem}" in comment
    assert not any(line.startswith("#") for line in lines)


def test_the_default_point_of_raft() -> None:
    space = read_space(Path("raft"))
    assert default_point(space, RaConfig("RaSASRec", "ml-100k", (), QUIET)) == {
        "alpha": 0.5,
        "n_neighbors": 20,
        "beta": 1.0,
        "attn_tau": 1.0,
        "ram_dropout": 0.5,
        "raft_learning_rate": 3e-3,
    }
    far = RaConfig("RaSASRec", "ml-100k", (), {**QUIET, "n_neighbors": 7})
    assert default_point(space, far) is None


def test_the_default_point_follows_settings_and_the_data_set() -> None:
    space = read_space(Path("backbone"))
    point = default_point(space, RaConfig("DuoRec", "ml-100k", (), {**QUIET, "weight_decay": 1e-5}))
    assert point is not None
    assert (point["train_batch_size"], point["weight_decay"], point["targets_per_pass"]) == (512, 1e-5, 25)
    point = default_point(space, RaConfig("SASRec", "other", (), QUIET))
    assert point is not None
    assert (point["train_batch_size"], point["targets_per_pass"], point["ema_decay"]) == (3072, 50, 0.998)


def test_the_values_are_checked_by_the_settings() -> None:
    said = checked(
        Parameter("alhpa", "uniform", (), 0.1, 0.9),
        Parameter("alpha", "uniform", (), -1.0, 2.0),
        Parameter("beta", "uniform", (), 0.0, 1.0),
        Parameter("memory_source", "choice", ("all", "both")),
        Parameter("seed", "randint", (), 0, 2**32 + 1),
    )
    assert said == (
        "unknown setting 'alhpa' (value 0.1); did you mean 'alpha'?; "
        "alpha=-1.0 must be between 0 and 1; alpha=2.0 must be between 0 and 1; "
        "memory_source='all' must be one of enumerate, patterns, both; "
        "seed=4294967296 must be between 0 and 4294967295"
    )


def test_a_fault_of_both_ends_is_said_once() -> None:
    assert checked(Parameter("n_neighbors", "randint", (), 0, 1)) == "n_neighbors=0 must be >= 1"


def test_fractions_of_an_integer_are_explained() -> None:
    said = checked(Parameter("n_neighbors", "quniform", (), 5.0, 30.0, 5.0))
    assert said.startswith(
        "n_neighbors=5.0 must be an integer, but quniform draws fractions; use randint or choice; "
    )


def test_a_setting_that_is_given_is_not_searched_too() -> None:
    said = checked(Parameter("alpha", "uniform", (), 0.1, 0.9), alpha=0.3)
    assert said == "--alpha=0.3 is given and alpha is searched; keep one"


def test_a_setting_of_a_config_file_may_be_searched(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("alpha: 0.3\n")
    space = Space(file, (Parameter("alpha", "uniform", (), 0.1, 0.9),))
    config = RaConfig("RaSASRec", "ml-100k", [file], QUIET)
    check_space(space, config, QUIET)
    assert default_point(space, config) == {"alpha": 0.3}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        *(
            (name, "it says where files lie or how a trial is executed")
            for name in "data_path checkpoint_dir output_dir export_dir overwrite resume reuse use_gpu "
            "config_files".split()
        ),
        *(
            (name, "it is one file for all trials")
            for name in ("backbone_checkpoint", "regenerator_checkpoint")
        ),
        *(
            (name, "it says how trials are measured")
            for name in "valid_metric metrics topk eval_args repeatable extend_with_validation".split()
        ),
        *(
            (name, "it says how data is read, filtered and split")
            for name in "dataset load_col user_inter_num_interval val_interval benchmark_filename".split()
        ),
        *(
            (name, "a sweep compares trials at equal epochs")
            for name in "epochs stopping_step raft_epochs raft_stopping_step eval_step".split()
        ),
        ("model", "run one sweep per model"),
    ],
)
def test_what_keeps_trials_comparable_is_not_searched(name: str, why: str) -> None:
    assert checked(Parameter(name, "choice", (1, 2))) == f"{name} may not be searched: {why}"


def test_seeds_and_lengths_of_histories_may_be_searched() -> None:
    seed, length = Parameter("seed", "randint", (), 0, 9), Parameter("MAX_ITEM_LIST_LENGTH", "grid", (20, 50))
    check_space(Space(Path("s"), (seed, length)), RaConfig("SASRec", "ml-100k", (), QUIET), QUIET)
