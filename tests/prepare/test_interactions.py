"""Whatever format interactions come in, the same users have the same items in the same order."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import compute

from recbole_ra.core.errors import DataError, RecboleRaError, SettingsError
from recbole_ra.data.atomic import check_atomic_file
from recbole_ra.prepare.interactions import PreparedDataset, complete_rows, prepare, write_inter

REQUIRED = {"user_id": "token", "item_id": "token", "timestamp": "float"}
REVIEW = '{"reviewerID": "A1", "asin": "B01", "overall": 5.0, "unixReviewTime": 10}\n'


@pytest.fixture
def beauty(shared_dataset: Path) -> pd.DataFrame:
    """The first interactions of amazon-beauty, with ids and times that look like Amazon's."""
    raw = pd.read_csv(shared_dataset / "amazon-beauty" / "amazon-beauty.inter", sep="\t", nrows=3000)
    raw.columns = ["user", "item", "time"]
    return pd.DataFrame(
        {
            "user": "A" + raw["user"].map("{:012d}".format),
            "item": "B" + raw["item"].map("{:09d}".format),
            "rating": 1.0 + raw["item"] % 5,
            "time": 1_400_000_000 + raw["time"] * 86_400,
        }
    ).sample(frac=1, random_state=1)


def histories(path: Path) -> dict[str, list[str]]:
    check_atomic_file(path, required=REQUIRED)
    frame = pd.read_csv(path, sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    frame = frame.sort_values("timestamp:float", kind="stable")
    return frame.groupby("user_id:token")["item_id:token"].agg(list).to_dict()


def write_as(frame: pd.DataFrame, form: str, folder: Path) -> Path:
    """The frame as the file that people have of it."""
    by_user = frame.sort_values("time").groupby("user")["item"].agg(" ".join)
    path = folder / form
    match form:
        case "ratings_Beauty.csv" | "ratings_Beauty.csv.gz":
            frame.to_csv(path, header=False, index=False)
        case "Beauty.csv":
            frame[["item", "user", "rating", "time"]].to_csv(path, header=False, index=False)
        case "reviews_Beauty_5.json.gz" | "reviews_Beauty_5.json":
            names = {"user": "reviewerID", "item": "asin", "rating": "overall", "time": "unixReviewTime"}
            entries = frame.rename(columns=names).assign(
                reviewText='said "no"\n', helpful=[[0, 1]] * len(frame)
            )
            entries.to_json(path, orient="records", lines=True)
        case "Beauty.txt":
            path.write_text("".join(f"{user} {items}\n" for user, items in by_user.items()))
        case "movies.csv":
            names = {"user": "userId", "item": "movieId", "time": "timestamp"}
            frame.rename(columns=names).to_csv(path, index=False)
        case "dated.tsv":
            frame.assign(time=pd.to_datetime(frame["time"], unit="s")).to_csv(path, sep="\t", index=False)
        case "table.parquet":
            frame.assign(time=pd.to_datetime(frame["time"], unit="s")).to_parquet(path)
        case "other.inter":
            names = {"user": "user_id:token", "item": "item_id:token", "time": "timestamp:float"}
            frame.drop(columns="rating").rename(columns=names).to_csv(path, sep="\t", index=False)
    return path


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("ratings_Beauty.csv", "amazon-csv"),
        ("ratings_Beauty.csv.gz", "amazon-csv"),
        ("Beauty.csv", "amazon-csv"),
        ("reviews_Beauty_5.json.gz", "amazon-reviews"),
        ("reviews_Beauty_5.json", "amazon-reviews"),
        ("Beauty.txt", "sequences"),
        ("movies.csv", "table"),
        ("dated.tsv", "table"),
        ("table.parquet", "table"),
        ("other.inter", "table"),
    ],
)
def test_every_form_gives_the_same_histories(
    beauty: pd.DataFrame, tmp_path: Path, form: str, kind: str
) -> None:
    done = prepare(write_as(beauty, form, tmp_path), "beauty", tmp_path / "out")
    expected = beauty.sort_values("time").groupby("user")["item"].agg(list).to_dict()
    assert histories(done.path) == expected
    assert done.path == tmp_path / "out" / "beauty" / "beauty.inter"
    assert (done.kind, done.n_dropped, done.n_interactions) == (kind, 0, len(beauty))
    assert (done.n_users, done.n_items) == (beauty["user"].nunique(), beauty["item"].nunique())
    if kind != "sequences":
        times = pd.read_csv(done.path, sep="\t")["timestamp:float"]
        assert times.tolist() == beauty["time"].tolist()


def make(tmp_path: Path, name: str, content: str | bytes, **options: object) -> PreparedDataset:
    source = tmp_path / name
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    return prepare(source, "x", tmp_path / "out", **options)  # type: ignore[arg-type]


def fault(tmp_path: Path, name: str, content: str | bytes, **options: object) -> str:
    """The message for a file: one line that names it, and nothing written."""
    with pytest.raises((DataError, SettingsError)) as caught:
        make(tmp_path, name, content, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def test_column_order_of_amazon_is_told(tmp_path: Path) -> None:
    old = make(tmp_path, "a.csv", "A1,B000000001,5.0,10\nA2,0123456789,4.0,11\n")
    assert "user_id,item_id,rating,timestamp (2014 release)" in old.notes[0]
    new = make(tmp_path, "b.csv", "B000000001,A1,5.0,10\n012345678X,A2,4.0,11\n", overwrite=True)
    assert "item_id,user_id,rating,timestamp (2018 release)" in new.notes[0]
    assert histories(new.path) == {"A1": ["B000000001"], "A2": ["012345678X"]}
    with pytest.raises(DataError, match="cannot tell users from items"):
        make(tmp_path, "ratings_c.csv", "1,2,5.0,10\n", overwrite=True)


def test_rows_without_user_item_or_time_are_counted(tmp_path: Path) -> None:
    done = make(tmp_path, "t.csv", "user,item,date,rating\na,1,5,\n,1,5,3\na,NA,5,3\na,2,,3\nb,2,6,4\n")
    assert (done.n_interactions, done.n_dropped) == (2, 3)
    assert "dropped 3 of 5 rows without user, item or time" in done.notes
    done = make(tmp_path, "r.json", REVIEW + '{"asin": "B2"}\n\n', overwrite=True)
    assert (done.n_interactions, done.n_dropped) == (1, 1)
    with pytest.raises(DataError, match="none of its 1 rows"):
        make(tmp_path, "n.csv", "user,item,time\na,b,\n", overwrite=True)


def test_named_columns_and_dates(tmp_path: Path) -> None:
    text = 'who,what,said,when\n"x, y",1,"two\nlines",2014-05-13T16:53:20Z\nz,2,,2014-05-13 18:53:20+02:00\n'
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when"}
    done = make(tmp_path, "t.csv", text, columns=columns)
    assert done.path.read_text().splitlines()[1:] == ["x, y\t1\t1400000000", "z\t2\t1400000000"]
    assert done.notes == ("columns used: user_id = who, item_id = what, timestamp = when",)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_any_line_end_is_one(ending: str, tmp_path: Path) -> None:
    lines = make(tmp_path, "s.txt", ending.join(["u1 a b", "u2 c a", ""]))
    assert histories(lines.path) == {"u1": ["a", "b"], "u2": ["c", "a"]}
    table = make(tmp_path, "t.csv", ending.join(["user,item,time", "u1,a,1", "", "u2,b,2"]), overwrite=True)
    assert histories(table.path) == {"u1": ["a"], "u2": ["b"]}


def test_a_parquet_column_of_lists_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [["a"], ["b"]], "item": ["x", "y"], "ts": [1, 2]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"holds list<.*>; name a column of single values"):
        prepare(tmp_path / "t.parquet", "x", tmp_path / "out")


def test_parquet_ids_with_gaps_stay_whole(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": [1, None, 3], "item": pd.Categorical(["a", "b", "c"]), "ts": [1, 2, 3.5]})
    frame.to_parquet(tmp_path / "t.parquet")
    done = prepare(tmp_path / "t.parquet", "x", tmp_path / "out")
    assert done.path.read_text().splitlines()[1:] == ["1\ta\t1", "3\tc\t3.5"]
    assert done.n_dropped == 1


@pytest.mark.parametrize(
    ("name", "content", "options", "parts"),
    [
        ("x.csv", "", {}, ["x.csv: is empty"]),
        ("x.csv", "\n\n", {}, ["blank lines"]),
        ("x.csv", "a", {"kind": "tabel"}, ["'tabel' is unknown", "did you mean 'table'"]),
        ("u.data", "196\t242\t3\t881250949\n", {}, ["cannot tell", "amazon-csv", "sequences", "'table'"]),
        ("pairs.txt", "1 2\n1 3\n", {}, ["cannot tell"]),
        ("r.dat", "1 2 3 978300760\n1 4 3 978300761\n", {}, ["cannot tell"]),
        ("r.json", REVIEW * 2 + '{"asin": \n', {}, ["r.json, line 3: is not JSON"]),
        ("r.json", REVIEW + "\n[1]\n", {}, ["line 3: is no JSON object"]),
        ("r.json", "[\n" + REVIEW + "]\n", {}, ["line 1: begins a JSON list; write one review a line"]),
        ("r.json", '{"a":' * 10_000, {}, ["line 1: is nested too deep"]),
        ("t.csv", bytes(range(256)), {}, ["t.csv: is not UTF-8 text"]),
        ("t.csv", "user,item,time\0\n1,2,3\n", {}, ["t.csv: is no text", "NUL"]),
        ("t.csv", 'user,"' + "x" * 140_000 + '"\n', {"kind": "table"}, ["t.csv: is no table", "131072"]),
        ("r.json", REVIEW.replace("10", '"soon"'), {}, ["line 1", "unixReviewTime is 'soon'"]),
        ("r.json.gz", gzip.compress(REVIEW.encode() * 99, mtime=0)[:-12], {}, ["not a whole gzip file"]),
        ("t.csv.gz", gzip.compress(b"user,item,time\n", mtime=0)[:-12], {"kind": "table"}, ["t.csv.gz"]),
        ("s.txt", "1 2 3\n\n4\n", {"kind": "sequences"}, ["line 3: user '4' has no items"]),
        ("s.txt", "1 2 3\n4 5\n1 7\n", {"kind": "sequences"}, ["line 3: user '1' had a line before"]),
        ("t.csv", "user,item,time\na,b,1\n\na,b\n", {}, ["line 4: 2 fields where there should be 3"]),
        ("a.csv", "A1,B000000001,5,1\nA1,B000000001\n", {"kind": "amazon-csv"}, ["line 2: 2 fields"]),
        ("a.csv", "\n\n", {"kind": "amazon-csv"}, ["a.csv: holds no line that is not blank"]),
        ("a.csv", "A1,B000000001,5,soon\n", {"kind": "amazon-csv"}, ["line 1: timestamp 'soon'"]),
        (
            "t.csv",
            "user,item,time\na,b,1\n\na,b,soon\n",
            {},
            ["line 4: timestamp 'soon' is no number or ISO"],
        ),
        ("t.csv", 'user,item,x,time\n,b,"\n",1\na,b,,2020-01-01\na,b,,9/9/20\n', {}, ["line 5", "'9/9/20'"]),
        ("t.csv", "user,item,time,rating\na,b,1,good\n", {}, ["line 2: rating 'good' is no number"]),
        ("t.csv", "user,item,time\na,b,1\na,b,inf\n", {}, ["line 3: timestamp 'inf' is no number"]),
        ("t.csv", "user,item,hour\na,b,1\n", {}, ["no column has a common name for timestamp", "hour"]),
        (
            "t.csv",
            "user,item,hour\na,b,1\n",
            {"columns": {"timestamp": "hours"}},
            ["no column 'hours'", "user, item, hour", "did you mean 'hour'"],
        ),
        ("t.csv", "user,item,user,time\n", {}, ["more than one column 'user'"]),
        ("t.csv", "user,item,time\n", {"columns": {"item_id": "user"}}, ["'user' is taken for two roles"]),
        ("t.csv", "user,item,time\n", {"columns": {"userid": "user"}}, ["did you mean 'user_id'"]),
        ("t.csv", "a b c\n", {"kind": "sequences", "columns": {"user_id": "a"}}, ["no named columns"]),
        ("t.csv", 'user,item,time,x\na,b,1,"y\na,c,2,z\n', {}, ["line 2: a double quote", "unexpected end"]),
        (
            "t.csv",
            'user,item,time,x\na,b,1,"y\na,c,2,"z"\n',
            {},
            ["line 2: a double", "expected after"],
        ),
        ("r.json", REVIEW.replace("A1", "\\ud83d"), {}, ["line 1: reviewerID holds half a character"]),
        ("t.csv", b"user,item,time\n\xe9,b,1\n", {}, ["not UTF-8"]),
        ("t.parquet", "user", {}, ["t.parquet: is not Parquet"]),
    ],
)
def test_fault_is_named(
    tmp_path: Path, name: str, content: str | bytes, options: dict[str, object], parts: list[str]
) -> None:
    message = fault(tmp_path, name, content, **options)
    assert [part for part in parts if part not in message] == []


def test_target_is_replaced_only_on_request(tmp_path: Path) -> None:
    done = make(tmp_path, "t.csv", "user,item,time\na,b,1\n")
    with pytest.raises(DataError, match=r"x\.inter: exists already"):
        make(tmp_path, "t.csv", "user,item,time\na,c,1\n")
    with pytest.raises(DataError, match="line 2"):
        make(tmp_path, "t.csv", "user,item,time\na,c,soon\n", overwrite=True)
    assert histories(done.path) == {"a": ["b"]}
    make(tmp_path, "t.csv", "user,item,time\na,c,1\n", overwrite=True)
    assert histories(done.path) == {"a": ["c"]}
    assert list(done.path.parent.iterdir()) == [done.path]


@pytest.mark.parametrize("name", ["", "a/b", "..", "/tmp"])
def test_name_stays_inside_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="directory name"):
        prepare(tmp_path / "t.csv", name, tmp_path)


def test_missing_source_suggests_a_sibling(tmp_path: Path) -> None:
    (tmp_path / "beauty.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"did you mean 'beauty\.json'"):
        prepare(tmp_path / "beauti.json", "x", tmp_path)


def test_written_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    columns = {
        "user_id": ["u1", None, "u3", "u4"],
        "item_id": [1, 2, 3, 4],
        "timestamp": [1.0, 2.0, 1.4e9, np.nan],
        "rating": [5, 4.5, np.nan, 1],
    }
    rows = complete_rows(Path("source"), pa.table(columns), "table")
    write_inter(rows, path)
    assert path.read_text().splitlines() == [
        "user_id:token\titem_id:token\ttimestamp:float\trating:float",
        "u1\t1\t1\t5",
        "u3\t3\t1400000000\t",
    ]
    check_atomic_file(path, required=REQUIRED)


def trimmed(texts: list[str]) -> list[str]:
    found: list[str] = compute.utf8_trim_whitespace(pa.array(texts)).to_pylist()
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters='\t\r\n"', exclude_categories=["C"]), min_size=1).filter(
                lambda text: trimmed([text]) != [""]
            ),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
    )
)
def test_what_is_written_passes_the_check_and_keeps_its_values(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float]]
) -> None:
    path = tmp_path_factory.mktemp("write") / "x.inter"
    ids, times = [row[0] for row in rows], [row[1] for row in rows]
    table = pa.table({"user_id": ids, "item_id": ids, "timestamp": times})
    write_inter(complete_rows(path, table, "table"), path)
    check_atomic_file(path, required=REQUIRED)
    lines = [line.split("\t") for line in path.read_bytes().decode().rstrip("\n").split("\n")[1:]]
    assert [line[0] for line in lines] == trimmed(ids)
    assert [float(line[2]) for line in lines] == times


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"user_id": ["a\tb"]}, "user_id 'a\\\\tb' holds a tab"),
        ({"item_id": ['a"b']}, "item_id 'a\"b' holds"),
        ({"item_id": ["a\0"]}, r"item_id 'a\\x00' holds a .*NUL byte"),
        ({"user_id": ["a" * 131_073]}, "user_id 'a+…' is longer than 131,072 characters"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, change: dict[str, list[str]], match: str
) -> None:
    path = tmp_path / "x.inter"
    path.write_text("old")
    rows = pa.table({"user_id": ["1"], "item_id": ["2"], "timestamp": [3.0], **change})
    with pytest.raises(DataError, match=match):
        write_inter(rows, path)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_refusal_leaves_no_folder(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text('user,item,time\n"a""b",1,2\n')
    with pytest.raises(DataError, match="holds a tab"):
        prepare(source, "made", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("user,item,time\n1,2,3\n")
    for length in (252, 300):
        with pytest.raises(RecboleRaError, match="too long for the file system; shorten it"):
            prepare(source, "n" * length, tmp_path / "out")


def test_gzip_is_told_by_its_bytes_too(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_bytes(gzip.compress(b"user,item,time\n1,2,3\n"))
    assert prepare(source, "made", tmp_path / "out").n_interactions == 1


def test_dates_of_any_year_are_read(tmp_path: Path) -> None:
    dates = pa.array([-62_135_596_800, 253_402_214_400], pa.timestamp("s"))
    table = pa.table({"user": ["a", "a"], "item": ["x", "y"], "timestamp": dates})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    done = prepare(tmp_path / "t.parquet", "s", tmp_path / "out")
    assert [line.split("\t")[2] for line in done.path.read_text().splitlines()[1:]] == [
        "-62135596800", "253402214400"
    ]  # fmt: skip
