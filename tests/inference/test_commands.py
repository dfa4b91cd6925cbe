"""The commands that use a run: readable tables, files by their ending, one line for a mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import recbole_ra
from recbole_ra.cli import main
from recbole_ra.inference.output import table_writer


@pytest.fixture
def run(trained: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, and ``runs/latest`` in the working directory that names it."""
    monkeypatch.chdir(tmp_path)
    copy = Path(shutil.copytree(trained("RaSASRec").folder, tmp_path / "runs" / "one"))
    (tmp_path / "runs" / "latest").symlink_to("one")
    return copy


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command; returns its exit code and what it printed to standard output and error."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        return code, *capsys.readouterr()

    return command


def test_a_table_for_few_users(run: Path, said: Said) -> None:
    code, out, err = said("recommend", "--users=u1,u2,nobody", "--k=3")
    assert code == 0
    table = recbole_ra.load(run).recommend(["u1", "u2"], k=3)
    for row in table.itertuples():
        assert f"│ {row.user:6s} │ {row.item}" in out
        assert f"{row.score:.4f}" in out
    assert "Film" in out
    assert "popular items for users of whom nothing is known: 'nobody' is cold" in err


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_a_file_of_all_users(ending: str, run: Path, said: Said) -> None:
    code, out, _ = said("recommend", str(run), "--users=all", "--k=4", f"--out=found/recs.{ending}")
    assert code == 0
    assert out.startswith(f"found/recs.{ending}: 40 users, ")
    path = Path("found") / f"recs.{ending}"
    read: dict[str, Callable[[Path], pd.DataFrame]] = {
        "csv": pd.read_csv,
        "tsv": lambda path: pd.read_csv(path, sep="\t"),
        "parquet": pd.read_parquet,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }
    expected = recbole_ra.load(run).recommend("all", k=4)
    found = read[ending](path)
    assert list(found.columns) == ["user", "item", "score", "rank", "title"]
    assert found[["user", "item", "rank"]].equals(expected[["user", "item", "rank"]])
    assert found["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), abs=1e-5)
    assert [path.name for path in Path("found").iterdir()] == [f"recs.{ending}"]


def test_files_of_tokens_and_histories(run: Path, said: Said) -> None:
    Path("users.txt").write_text("u3\n\nu4\n")
    Path("allowed.txt").write_text("i1\ni2\ni3\n")
    code, _, _ = said(
        "recommend", "--users=users.txt", "--items=allowed.txt", "--filter_seen=false", "--exclude=i2",
        "--k=2", "--out=recs.csv",
    )  # fmt: skip
    assert code == 0
    found = pd.read_csv("recs.csv")
    assert found["user"].tolist() == ["u3", "u3", "u4", "u4"]
    assert set(found["item"]) == {"i1", "i3"}

    Path("given.csv").write_text("user,item\na,i1\na,i2\nb,i5\na,zz\n")
    code, _, err = said("recommend", "--histories=given.csv", "--k=2", "--out=recs.jsonl")
    assert code == 0
    assert "skipped in histories: 'zz' is unknown" in err
    lines = [json.loads(line) for line in Path("recs.jsonl").read_text().splitlines()]
    expected = recbole_ra.load(run).recommend(histories={"a": ["i1", "i2"], "b": ["i5"]}, k=2)
    assert [(line["user"], line["item"]) for line in lines] == list(
        zip(expected["user"], expected["item"], strict=True)
    )
    assert said("recommend", "--history=i1,i2", "--k=1")[0] == 0


def test_lines_of_json_have_none_that_is_empty(tmp_path: Path) -> None:
    full = pd.DataFrame({"user": ["u1"], "item": ["i1"]})
    with table_writer(tmp_path / "x.jsonl") as write:
        for table in (full, full[:0], full):
            write(table)
    assert [json.loads(line)["item"] for line in (tmp_path / "x.jsonl").read_text().splitlines()] == [
        "i1"
    ] * 2


def test_explain_shows_the_memories(run: Path, said: Said) -> None:
    code, out, _ = said("explain", "--history=i1,i2", "--item=i5")
    assert code == 0
    assert out.startswith("i5 (Film 5): rank ")
    assert "without memories rank " in out
    assert "similarity" in out
    assert "user 1" in out
    assert said("explain", "--user=u1", "--owners")[0] == 0


def test_what_is_left_out_is_said(run: Path, said: Said) -> None:
    Path("events.csv").write_text("user,item,time\nada,i1,1\nada,i2,\nbob,i3,NA\n")
    code, out, err = said("add", "events.csv")
    assert (code, out.split(";")[0]) == (0, "interactions: 1 new, 0 known before")
    assert err == "events.csv: dropped 2 rows without user, item or time\n"
    assert said("recommend", "--histories=events.csv")[2] == err
    _, _, err = said("recommend", "--users=u1", "--exclude=I12,i3", "--items=i3,i4,zz")
    assert err.splitlines() == [
        "skipped in items: 'zz' is unknown to the model", "skipped in exclude: 'I12' is unknown to the model"
    ]  # fmt: skip


def test_a_history_may_be_longer_than_a_file_name(run: Path, said: Said) -> None:
    long = ",".join(f"i{n % 25}" for n in range(200))
    code, out, _ = said("recommend", f"--history={long}", "--filter_seen=false", "--k=1")
    assert (code, out.count("│ 1 ")) == (0, 1)


def test_added_events_stay_and_forgotten_users_go(run: Path, said: Said) -> None:
    Path("events.csv").write_text("user_id,item_id,timestamp\nnewbie,i1,5\nnewbie,i2,6\nu1,i3,1000000\n")
    assert said("add", "events.csv") == (
        0,
        "interactions: 3 new, 0 known before; users: 1 new; memories: 2 new\n",
        "",
    )
    code, out, _ = said("add", str(run), "events.csv")
    assert (code, out.split("; ")[0]) == (0, "interactions: 0 new, 3 known before")
    assert "newbie" in recbole_ra.load(run).users
    code, out, _ = said("forget", "newbie")
    assert code == 0
    assert out.startswith("forgotten: newbie, with history and memories (1);")
    assert "newbie" not in recbole_ra.load(run).users


def test_similar_items(run: Path, said: Said) -> None:
    expected = recbole_ra.load(run).similar_items(["i1", "i2"], k=3)
    code, out, _ = said("similar", "--items=i1,i2", "--k=3")
    assert code == 0
    for row in expected.itertuples():
        assert f"│ {row.item}" in out
        assert f"{row.score:.4f}" in out
    code, out, _ = said("similar", "--items=i1,i2", "--k=3", "--out=like.csv")
    assert (code, out) == (0, "like.csv: 6 rows\n")
    assert pd.read_csv("like.csv")["similar"].tolist() == expected["similar"].tolist()


def test_columns_of_histories(run: Path, said: Said) -> None:
    Path("log.csv").write_text("who,what\na,i1\na,i2\n")
    code, out, _ = said("recommend", "--histories=log.csv", "--columns=user_id:who,item_id:what", "--k=1")
    assert code == 0
    assert recbole_ra.load(run).recommend(histories=[["i1", "i2"]], k=1)["item"][0] in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["recommend", "nowhere", "--users=all"], "nowhere: no such run folder; train a model first"),
        (["recommend", "--users=all", "--k=0"], "k=0: must be a whole number from 1 on"),
        (["recommend", "--users=all", "--k=99"], "k=99: there are only 25 items"),
        (["recommend", "--users=all", "--out=recs.xls"], "its ending must be one of .csv, .tsv, .parquet"),
        (["recommend", "--users=none.txt"], "none.txt: no such file"),
        (["recommend", "--users=,"], "holds no token"),
        (["recommend", "--users=wrong.csv"], "wrong.csv: none of its lines is a user of this recommender"),
        (
            ["recommend", "--users=a/b"],
            "a/b: no such file; name one, or write tokens with commas",
        ),
        (["recommend", "--users=u1", "--columns=user_id:who"], "--columns is of the table that --histories"),
        (["recommend", "runs", "--users=all"], "runs: holds runs; name one of them, such as runs/latest"),
        (["similar", "--items=zz"], "items: 'zz' is not among the 25 items of this recommender"),
        (["similar", "--items=i1", "--k=25"], "k=25: there are only 24 other items"),
        (["recommend", "--users=zz", "--on_cold_users=error"], "'zz' is unknown or without a known item"),
        (["recommend", "--users=u1", "--items=zz"], "leave no item to recommend"),
        (["recommend", "--history=i1,zz", "--on_unknown_items=error"], "'zz' is not among the 25 items"),
        (["recommend", "--histories=none.csv"], "none.csv: no such file"),
        (["recommend", "--histories=wrong.csv"], "cannot tell what kind of file it is"),
        (["explain"], "give a history or a user"),
        (["explain", "--user=u99"], "'u99' is not among the users of this recommender; did you mean 'u9'?"),
        (["explain", "--history=i1", "--item=zz"], "item: 'zz' is not among the 25 items"),
        (["add", "none.csv"], "none.csv: no such file"),
        (["add", "wrong.csv"], "cannot tell what kind of file it is"),
        (["add", "untimed.csv"], "no column has a common name for timestamp"),
        (["forget", "zz"], "'zz' is not among the users of this recommender"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(words: list[str], line: str, run: Path, said: Said) -> None:
    Path("wrong.csv").write_text("colour,size\nred,3\n")
    Path("untimed.csv").write_text("user_id,item_id\nu1,i3\n")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, err = said(*words)
    assert (code, out) == (2, "")
    assert err.startswith("recbole-ra: ")
    assert line in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "words", [["recommend"], ["recommend", "--users=u1", "--filter_seen=no"], ["forget"]]
)
def test_wrong_words_are_one_line(words: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"recbole-ra: {words[0]}: ")
    assert line.endswith(f"see recbole-ra {words[0]} --help")


@pytest.mark.parametrize("name", ["recommend", "explain", "add", "forget"])
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"recbole-ra {name}" in capsys.readouterr().out
