"""What the command line says: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import errno
import functools
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_ra.cli import every_setting, main, parse_settings
from recbole_ra.core.errors import SettingsError
from recbole_ra.settings.recbole import RECBOLE

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
ROWS = [f"u{user}\ti{(user + step) % 20}\t{step}" for user in range(30) for step in range(6)]
QUICK = [
    "--epochs=1",
    "--raft_epochs=1",
    "--hidden_size=16",
    "--inner_size=16",
    "--n_neighbors=3",
    "--use_gpu=false",
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes ``dataset/shop/shop.inter`` below the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "dataset" / "shop" / "shop.inter"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return path

    return write


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a refused command prints."""
    assert main(list(words)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    complaints = [line for line in lines if line.startswith("recbole-ra: ")]
    assert complaints == lines[-1:], lines
    assert "Traceback" not in "".join(lines)
    return complaints[0]


def good() -> str:
    return "\n".join([HEADER, *ROWS]) + "\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model=RaSASRek", "--dataset=shop"], "unknown model 'RaSASRek'; did you mean 'RaSASRec'?"),
        (["--dataset=shop"], "--model is missing"),
        (["--model=SASRec", "--dataset=shop", "--n_neighbours=3"], "did you mean 'n_neighbors'?"),
        (["--model=SASRec", "--dataset=shop", "--epochs=many"], "epochs='many' must be an integer"),
        (["--model=SASRec", "--dataset=shop", "--alpha=2"], "alpha=2 must be between 0 and 1"),
        (["--model=SASRec", "--dataset=shop", "--index_type=flat"], "must be one of Flat, IVFFlat"),
        (
            ["--model=SASRec", "--dataset=shop", "--hidden_size=65", "--n_heads=2"],
            "not divisible by n_heads=2",
        ),
        (["--model=SASRec", "--dataset=shop", "--valid_metric=NDCG@7"], "7 is not in topk"),
        (["--model=SASRec", "--dataset=shop", "--metrics=[Recal]"], "no metric named 'Recal'"),
        (["--model=SASRec", "--dataset=shop", "--config_files=no.yaml"], "no.yaml: no such file"),
        (["--model=SASRec", "--dataset=shop", "--seed=1", "--seed=2"], "--seed is given twice"),
        (["--model=SASRec", "--dataset=shop", "surplus"], "'surplus' is not a setting"),
        (
            ["recomend", "--users=1"],
            "'recomend' is neither a command nor a setting; there are the",
        ),
        (["--model=RaSASRec", "--dataset=shop", "--n_neighbors=500"], "holds only 90 memories"),
        (
            ["--model=SASRec", "--dataset=shop", '--user_inter_num_interval="[99,inf)"'],
            "empty after filtering",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_settings(
    words: list[str], said: str, data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data(good())
    assert said in refusal(capsys, *words)
    assert not Path("saved").exists() or not list(Path("saved").iterdir())
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n".join(ROWS), "header"),
        (good().replace("\t", ","), "field_separator"),
        (good().replace("timestamp:float", "when:float"), "timestamp"),
        (good() + "u1\ti1\n", "line 182"),
        (good() + "u1\ti1\tnoon\n", "noon"),
        (HEADER + "\n", "no rows"),
        ("\n".join([HEADER, *ROWS, "lonely\ti1\t1", "lonely\ti2\t2"]) + "\n", "'lonely'"),
    ],
    ids=["empty", "no header", "separator", "no time", "broken row", "not a number", "no rows", "short user"],
)
def test_atomic_files(
    text: str, said: str, data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data(text)
    line = refusal(capsys, "--model=SASRec", "--dataset=shop", *QUICK)
    assert said in line
    assert "shop" in line


def test_a_missing_data_set_says_where_to_put_it(
    data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "--model=SASRec", "--dataset=shop")
    assert "dataset/shop/shop.inter" in line
    assert not Path("dataset").exists() or not list(Path("dataset").rglob("*"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model=SASRec", "--dataset=shop", "--start_from=x"], "unknown setting 'start_from'"),
        (["--model=SASRec", "--dataset=shop", "--say=1"], "unknown setting 'say'"),
        (["--model=SASRec", "--dataset=shop", "--config_files="], "--config_files names no file"),
        (
            ["--model=SASRec", "--dataset=shop", "--backbone_checkpoint="],
            "backbone_checkpoint is empty; write",
        ),
        (["--model=SASRec", "--dataset=shop", "--export_dir", "--epochs=1"], "export_dir is empty; write"),
        (["--model=SASRec", "--dataset=shop", "--data_path="], "data_path='' must be the name of a folder"),
        (["--model=SASRec", "--dataset="], "--dataset is missing"),
        (["--model=SASRec", "--dataset=shop", "--data_path=dataset/shop"], "above that: --data_path=dataset"),
        (["--model=SASRec", "--dataset=f.csv"], "`recbole-ra prepare f.csv --name=f`"),
        (["--model=SASRec", "--dataset=shop", "--eval_args={mode: [full]}"], "eval_args mode=['full']"),
        (["--model=SASRec", "--dataset=shop", "--device=cuda"], "'cuda'); use_gpu and gpu_id choose it"),
        (["--model=SASRec", "--dataset=ml-100k", "--data_path=nowhere"], "data_path='nowhere' is no folder"),
        (
            ["--model=FDSA", "--dataset=shop"],
            "FDSA needs 'class', which neither a setting nor a column gives",
        ),
        (["--model=SASRec", "--dataset=shop", f"--topk={'[' * 9999}"], "--topk: [[[["),
        (["--model=SASRec", f"--dataset={'n' * 300}"], "cannot be read (File name too long)"),
        (
            ["prepare"],
            "prepare: the following arguments are required: source, --name; see",
        ),
        (["regenerate", "--dataset=shop", "--out"], "--out is missing"),
        (["regenerate", "--dataset=shop", "--out", "x", "--gamma=2"], "gamma=2 must be between 0 and 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_at_the_command_line(
    words: list[str], line: str, data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data(good())
    Path("f.csv").write_text("user,item,time\n")
    assert line in refusal(capsys, *words)


@pytest.mark.parametrize("what", ["a link to itself", "a file", "an empty folder"])
def test_recboles_data_set_does_not_stand_in_for_what_cannot_be_read(
    what: str, data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = data(good()).parents[1] / "ml-100k"
    if what == "a link to itself":
        place.symlink_to("ml-100k")
    elif what == "a file":
        place.touch()
    else:
        place.mkdir()
    line = refusal(capsys, "--model=SASRec", "--dataset=ml-100k", "--data_path=dataset", *QUICK)
    assert "dataset/ml-100k" in line


def test_damaged_checkpoints(data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = data(good())
    words = ["--model=SASRec", "--dataset=shop", *QUICK]
    assert main(words) == 0
    (best,) = Path("saved").glob("backbone-*/best.pt")
    whole = best.read_bytes()
    cut = Path("cut.pt")
    cut.write_bytes(whole[: len(whole) // 2])
    assert "cut.pt: not a readable checkpoint" in refusal(capsys, *words, f"--backbone_checkpoint={cut}")
    line = refusal(capsys, "--model=DuoRec", "--dataset=shop", *QUICK, f"--backbone_checkpoint={best}")
    assert "holds model SASRec, not DuoRec" in line
    path.write_text(good() + "\n".join(f"u{user}\tnew\t9" for user in range(30)) + "\n")
    line = refusal(capsys, *words, f"--backbone_checkpoint={best}")
    assert "another item vocabulary (21 items, here 22)" in line


def test_a_full_disk(
    data: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data(good())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = refusal(capsys, "--model=SASRec", "--dataset=shop", *QUICK)
    assert "no space left on the disk" in line
    assert not list(Path("saved").rglob("*.pt"))
    assert not list(Path("saved").rglob("*.tmp"))


def test_ctrl_c_leaves_nothing_half_written(data: Callable[[str], Path]) -> None:
    data(good())
    endless = ["--epochs=100000", "--stopping_step=100000", "--hidden_size=16", "--use_gpu=false"]
    words = [sys.executable, "-m", "recbole_ra", "--model=SASRec", "--dataset=shop", *endless]
    # Where the tests run in the background, children would inherit that interrupts are ignored.
    restored = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=restored)
    deadline = time.monotonic() + 60
    while not list(Path("saved").glob("*/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:  # seen once in hundreds: lost in a finaliser, where Python drops it
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("recbole-ra: interrupted")
    assert "Traceback" not in said
    assert not list(Path("saved").rglob("*.tmp"))
    assert not list(Path("runs").iterdir())


def test_a_run_ends_in_a_table(data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    data(good())
    assert main(["--model", "RaSASRec", "--dataset", "shop", *QUICK]) == 0
    said = capsys.readouterr()
    assert "RaSASRec unmasked" in said.out
    assert "recall@10" in said.out
    assert "training targets" in said.err


QUICK = ["--epochs=1", "--hidden_size=16", "--inner_size=16", "--use_gpu=false"]
QUICK_REGENERATION = [
    *QUICK,
    *("--teacher_epochs=1", "--regenerator_epochs=3", "--regenerator_width=16"),
]


def test_regenerate_makes_what_a_run_trains_on(
    data: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data(good())
    words = ["regenerate", "--dataset=shop", "--out=dataset/shop-dr4sr", *QUICK_REGENERATION]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert "regenerated" in table
    assert "space 4" in table
    assert (tmp_path / "dataset" / "shop-dr4sr" / "shop-dr4sr.train.inter").is_file()
    assert "--overwrite" in refusal(capsys, *words)
    trained = ["--model=SASRec", "--dataset=shop", "--regenerate=dataset/shop-dr4sr", *QUICK]
    assert main(trained) == 0
    assert "unmasked" in capsys.readouterr().out
    benchmark = Path(__file__).parents[1] / "benchmarks" / "held_out_pairs.py"
    monkeypatch.syspath_prepend(benchmark.parent)
    monkeypatch.setattr(sys, "argv", [str(benchmark), "dataset/shop-dr4sr", "--dataset=shop"])
    runpy.run_path(str(benchmark), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["original", "pattern", "regenerated"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--dataset=shop"], "--out is missing"),
        (["--dataset=shop", "--out=x", "--model=SASRec"], "--model is not taken"),
        (["--dataset=shop", "--out=x", "--gamma=2"], "gamma=2 must be between 0 and 1"),
        (["--dataset=shop", "--out=x", "--n_latents=0"], "n_latents=0 must be >= 1"),
        (["--dataset=shop", "--out=x", "--diversity=perhaps"], "diversity='perhaps' must be true or false"),
        (["--dataset=shop", "--out=x", "--min_support=400"], "no pattern occurs in 400 sequences"),
    ],
)
def test_regenerate_refuses(
    words: list[str], expected: str, data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data(good())
    assert expected in refusal(capsys, "regenerate", *words, *QUICK_REGENERATION)
    assert not Path("x").exists()


def test_prepare_makes_what_a_run_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sales.csv").write_text("customer,sku,when\n" + "\n".join(row.replace("\t", ",") for row in ROWS))
    words = ["sales.csv", "--name=shop", "--columns=user_id:customer,item_id:sku,timestamp:when"]
    assert main(["prepare", *words]) == 0
    assert "30 users, 20 items, 180 interactions" in capsys.readouterr().out
    assert main(["--model=SASRec", "--dataset=shop", *QUICK]) == 0


def test_values_are_read_as_data() -> None:
    words = ["--lr=1e-3", "--name=__import__('os')", "--flag", "--ks=[1,2]", "--config_files=a.yaml,b.yaml"]
    settings, files = parse_settings(words)
    assert settings == {"lr": 1e-3, "name": "__import__('os')", "flag": True, "ks": [1, 2]}
    assert files == ["a.yaml", "b.yaml"]
    with pytest.raises(SettingsError, match="is not a setting"):
        parse_settings(["-x"])


def test_help_names_models_data_sets_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text: Any = capsys.readouterr().out
    assert main(["regenerate", "--dataset=shop", "--help"]) == 0
    assert capsys.readouterr().out == text
    for word in ("SASRec", "GRU4Rec", "amazon-beauty", "--n_neighbors=20", "--alpha=0.5", "prepare"):
        assert word in text


def test_help_shows_the_common_settings_and_all_of_them_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    common = capsys.readouterr().out
    assert main(["--help=all"]) == 0
    everything = capsys.readouterr().out
    for name, about in every_setting().items():
        if name not in RECBOLE:
            assert f"  --{name}=" in everything
            assert (f"  --{name}=" in common) == (not about.expert)
    for name in ("hidden_size", "contrast"):
        assert f"  --{name}=" in everything
    for line in ("weight_decay=0.0", "user_inter_num_interval=[0,inf)", "enable_amp=false"):
        assert f"  --{line}\n" in everything
    assert len(common.splitlines()) < len(everything.splitlines()) / 2
