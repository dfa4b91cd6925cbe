"""What a sweep asks for, checked before Ray is started."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from recbole_ra.cli import main, parse_settings
from recbole_ra.core.errors import RecboleRaError
from recbole_ra.core.files import held
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.files import parse_value
from recbole_ra.tuning.cluster import Machine
from recbole_ra.tuning.options import Sweep, plan_sweep, portable
from recbole_ra.tuning.space import default_point
from recbole_ra.tuning.sweep import search

Words = Callable[..., list[str]]


def plan(words: list[str]) -> Sweep:
    settings, files = parse_settings(words)
    return plan_sweep(settings.pop("model"), settings.pop("dataset"), files, settings)


def test_trials_count_draws_times_grid(words: Words) -> None:
    grid, mixed = "alpha: {grid: [0.3, 0.7]}", "alpha: {grid: [0.3, 0.7]}\nattn_tau: {uniform: [0.5, 2]}"
    assert (plan(words(grid)).n_trials, plan(words(grid)).n_samples) == (2, 1)
    assert (plan(words(mixed, trials=5)).n_trials, plan(words(mixed, trials=5)).n_samples) == (10, 5)
    assert plan(words("attn_tau: {uniform: [0.5, 2]}")).n_trials == 20
    assert plan(words("alpha: {choice: [0.3, 0.7, 0.9]}", search="grid")).n_trials == 3


def test_the_same_command_finds_its_folder_again(words: Words, tmp_path: Path) -> None:
    def folder(space: str, **options: object) -> Path:
        return plan([word for word in words(space, **options) if "sweep_dir" not in word]).folder

    space = "alpha: {grid: [0.3, 0.7]}"
    assert folder(space) == folder(space)
    assert folder(space).parent == tmp_path / "runs"
    assert folder(space).name.startswith("tune-RaSASRec-walks-space-")
    assert len({folder(space), folder(space, seed=7), folder(space, scheduler="asha")}) == 3
    assert folder(space) == folder(space, show_progress=False, checkpoint_dir="elsewhere")
    given = tmp_path / "best.pt"
    given.write_bytes(b"x")
    one = folder(space, backbone_checkpoint=given)
    given.write_bytes(b"y")
    assert len({folder(space), one, folder(space, backbone_checkpoint=given)}) == 3


def test_a_regenerated_set_is_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path)
    for plus in ("", "+"):
        config = RaConfig("SASRec", "ml-100k", (), {"regenerate": f"set{plus}"})
        assert portable(config.chosen, config)["regenerate"] == f"{tmp_path / 'set'}{plus}"


def test_a_sweep_of_another_model_or_data_is_another(words: Words, walks: Path, tmp_path: Path) -> None:
    shutil.copytree(walks, tmp_path / "own")
    given = words("alpha: {grid: [0.3, 0.7]}", data_path=tmp_path / "own")
    other_model = ["--model=RaDuoRec" if word.startswith("--model=") else word for word in given]
    other_split = [*given, "--eval_args={split: {RS: [0.8, 0.1, 0.1]}}"]
    first = plan(given)
    data = tmp_path / "own" / "walks" / "walks.inter"
    data.write_text(data.read_text().replace("\ti1\t", "\ti2\t"))
    others = {plan(changed).identity for changed in (given, other_model, other_split)}
    assert len(others | {first.identity}) == 4


def test_trials_that_cannot_be_compared_are_refused(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["tune", *words("alpha: {grid: [0.3]}")]
    assert main([*given, "--eval_step=0"]) == 2
    assert "eval_step=0: no epoch is validated" in capsys.readouterr().err
    assert main([*given, "--eval_args={split: {LS: test_only}}"]) == 2
    assert "the split leaves no validation rows to compare trials by" in capsys.readouterr().err
    weights = ["tune", *words("learning_rate: {uniform: [1e-4, 1e-3]}", scheduler="pbt", regenerate="auto")]
    assert main(weights) == 2
    assert "with regenerate=auto no trial goes on from another one" in capsys.readouterr().err


def test_a_running_sweep_is_not_deleted(words: Words) -> None:
    first = plan(words("alpha: {grid: [0.3]}"))
    first.folder.mkdir()
    (first.folder / "sweep.json").write_text('{"identity": "x"}')
    (first.folder / "kept").write_text("x")
    again = plan([*words("alpha: {grid: [0.3]}"), "--overwrite"])
    with (
        held(first.folder.with_name(f".{first.folder.name}.lock"), lambda: None),
        pytest.raises(RecboleRaError, match="another process runs this sweep; wait for it"),
    ):
        search(again, Machine(cpus=2, gpus=0))
    assert (first.folder / "kept").exists()


def test_only_a_folder_of_the_same_sweep_is_touched(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").write_text("x")
    for option in ("--overwrite", "--resume"):
        assert main(["tune", *words("alpha: {grid: [0.3]}"), option]) == 2
        assert "is no folder of a sweep; choose another --sweep_dir" in capsys.readouterr().err
    assert (tmp_path / "sweep" / "thesis.tex").exists()
    (tmp_path / "sweep" / "sweep.json").write_text('{"identity": "of another"}')
    assert main(["tune", *words("alpha: {grid: [0.3]}"), "--resume"]) == 2
    assert "holds a sweep with other settings, data or another space" in capsys.readouterr().err


def test_a_config_file_may_say_everything(words: Words, tmp_path: Path) -> None:
    given = dict(word[2:].split("=", 1) for word in words("alpha: {uniform: [0.1, 0.9]}", trials=7))
    file = tmp_path / "sweep.yaml"
    values = {key: parse_value(value) for key, value in given.items()}
    file.write_text(yaml.safe_dump({**values, "alpha": 0.3}))
    sweep = plan_sweep(None, None, [file], {})
    assert (sweep.config.model, sweep.n_trials, sweep.options.scheduler) == ("RaSASRec", 7, "none")
    assert default_point(sweep.space, sweep.config) == {"alpha": 0.3}


def test_paths_mean_the_same_in_any_working_directory(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = plan(words("alpha: {grid: [0.3]}", checkpoint_dir="kept")).settings
    assert settings["checkpoint_dir"] == str(tmp_path / "kept")
    assert Path(str(settings["data_path"])).is_absolute()
    assert not {"model", "dataset", "output_dir", "space", "scheduler"} & set(settings)


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ("alpha: {uniform: [0.1, 0.9]}", {"trials": 0}, "trials=0 must be >= 1"),
        ("alhpa: {uniform: [0.1, 0.9]}", {}, "did you mean 'alpha'?"),
        ("alhpa: {uniform: [0.1, 0.9]}", {"beta": 2}, "recbole-ra: beta=2 must be between 0 and 1\n"),
        ("alpha: {uniform: [0.9, 0.1]}", {}, "is empty; low must be below high"),
        ("alpha: {uniform: [0.1, 0.9]}", {"valid_metric": "NGDC@10"}, "valid_metric"),
        ("alpha: {uniform: [0.1, 0.9]}", {"scheduler": "hyperband"}, "must be one of asha, median"),
        ("alpha: {uniform: [0.1, 0.9]}", {"search": "grid"}, "alpha of"),
        ("alpha: {grid: [0.1, 0.9]}", {"search": "optuna"}, "must not be grid; use choice"),
        ("alpha: {grid: [0.1, 0.9]}", {"scheduler": "pbt"}, "must not be grid; use choice"),
        ("alpha: {grid: [0.1, 0.9]}", {"trials": 3}, "is a grid of 2 combinations, and each is tried once"),
        ("alpha: {uniform: [0.1, 0.9]}", {"resume": True}, "there is no sweep in"),
        ("alpha: {uniform: [0.1, 0.9]}", {"workers": 2}, "workers=2: trials share the machine already"),
        ("n_heads: {choice: [1, 2]}", {"scheduler": "pbt"}, "n_heads of"),
        ("hidden_size: {choice: [8, 16]}", {"scheduler": "pbt", "model": "SASRec"}, "cannot change while a"),
        ("alpha: {uniform: [0.1, 0.9]}", {"resume": True, "overwrite": True}, "are given; keep one"),
        ("alpha: {uniform: [0.1, 0.9]}", {"overwrite": "nope"}, "overwrite='nope' must be true or false"),
        ("alpha: {uniform: [0.1, 0.9]}", {"use_gpu": False, "gpus_per_trial": 0.5}, "but use_gpu=false"),
        ("alpha: {uniform: [0.1, 0.9]}", {"alpha": 0.5}, "--alpha=0.5 is given and alpha is searched"),
        ("gamma: {uniform: [0.1, 0.9]}", {"model": "DR4SR"}, "is not ranked, so nothing can be searched"),
        ("alpha: {uniform: [0.1, 0.9]}", {"space": "rafft"}, "did you mean 'raft'?"),
        ("alpha: {uniform: [0.1, 0.9]}", {"space": ""}, "--space is missing"),
        ("learning_rate: {uniform: [0.1, 0.9]}", {"fusion": "transitions"}, "a trial would have no epoch to"),
        ("fusion: {choice: [raserec, none]}", {}, "fusion=none: nothing is fine-tuned"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    space: str, options: dict[str, object], message: str, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(space, **options)
    if options.get("model") == "DR4SR":
        given = [word for word in given if "hidden_size" not in word]
    assert main(["tune", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpus_per_trial": 3}, "cpus_per_trial=3 but there are 2"),
        ({"gpus_per_trial": 1}, "gpus_per_trial=1 but there are 0 .*; 0 trains on CPUs"),
        ({"max_concurrent": 3}, "max_concurrent=3 trials of 1 CPUs need more than the 2"),
    ],
)
def test_more_than_the_machine_has_is_refused(options: dict[str, int], message: str, words: Words) -> None:
    pytest.importorskip("ray", reason="make setup-tune installs it")
    from recbole_ra.core.errors import SettingsError
    from recbole_ra.tuning.sweep import resources

    with pytest.raises(SettingsError, match=message):
        resources(plan(words("alpha: {grid: [0.3, 0.7]}", **options)), Machine(cpus=2, gpus=0))


def test_resources_suit_the_machine(words: Words) -> None:
    pytest.importorskip("ray", reason="make setup-tune installs it")
    from recbole_ra.tuning.sweep import resources

    many = plan(words("alpha: {uniform: [0.1, 0.9]}", trials=50))
    assert resources(many, Machine(cpus=2, gpus=0)) == (1, 0.0, 2)
    assert resources(many, Machine(cpus=16, gpus=1)) == (4, 0.25, 4)
    assert resources(many, Machine(cpus=4, gpus=2)) == (1, 0.25, 4)
    assert resources(plan(words("alpha: {grid: [0.3]}")), Machine(cpus=8, gpus=0)) == (8, 0.0, 1)


def test_a_missing_or_old_ray_is_told_with_the_remedy(
    words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recbole_ra.tuning.cluster.version", lambda package: "2.6.3")
    assert main(["tune", *words("alpha: {grid: [0.3]}")]) == 2
    assert "Ray 2.6.3 (which RecBole asks for) does not work" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:port"])
def test_an_address_that_does_not_answer_is_told_at_once(
    address: str, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="make setup-tune installs it")
    assert main(["tune", *words("alpha: {grid: [0.3]}", address=address)]) == 2
    error = capsys.readouterr().err
    assert f"address='{address}': no Ray cluster answers" in error
    assert error.count("\n") == 1
