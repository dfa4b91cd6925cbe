"""Data sets at their boundaries, damaged atomic files, and sources that are not what they should be."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from hostile.arena import (
    AUGMENTED,
    EVERYTHING,
    GOOD,
    HEADER,
    PLAIN,
    ROWS,
    Arena,
    Case,
    file,
    rows,
    shop,
    write,
)

pytestmark = pytest.mark.slow

LONG = "x" * 131_073
ONE_MORE = "u1\ti1\t9"
NOISE = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()


def table(*lines: str, header: str = HEADER) -> str:
    return "\n".join([header, *lines]) + "\n"


def walk(users: int, steps: int, items: int, start: int = 0) -> list[str]:
    return [
        f"u{user}\ti{(user + step) % items}\t{start + step}" for user in range(users) for step in range(steps)
    ]


def put_link(name: str, target: str) -> Callable[[Path], None]:
    """Have a link in place of a file or folder."""

    def make(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            (path / "shop.inter").unlink()
            path.rmdir()
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    return make


def put_folder(name: str) -> Callable[[Path], None]:
    """Have an empty folder in place of a file."""

    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir(parents=True)

    return make


def replaced(before: str, after: str) -> Callable[[Path], Path]:
    """Have the data set with one line changed."""
    assert before in GOOD
    return shop(GOOD.replace(before, after, 1))


AT_ITS_END = "training targets[^~]*result: runs/"

BOUNDARIES = rows(
    "boundaries of data sets",
    PLAIN,
    [
        ("one user", "", AT_ITS_END, 0, shop(table(*walk(1, 5, 5)))),
        ("two users of three items", "", AT_ITS_END, 0, shop(table(*walk(2, 3, 4)))),
        ("three interactions each", "", AT_ITS_END, 0, shop(table(*walk(30, 3, 20)))),
        ("one item only", "", AT_ITS_END, 0, shop(table(*walk(9, 4, 1)))),
        ("one item, pairwise loss", "--loss_type=BPR", "there is no other; use CE", 2, shop(table(*walk(9, 4, 1)))),
        ("fewer than three", "", "30 users have fewer than 3 interactions .first: user 'u0'", 2, shop(table(*walk(30, 2, 20)))),
        ("one interaction in all", "", "fewer than 3 interactions", 2, shop(table(*walk(1, 1, 1)))),
        ("fewer than three, filtered", "--user_inter_num_interval='[3,inf)'", AT_ITS_END, 0, shop(table(*walk(9, 4, 9), "v\ti1\t1"))),
        ("one moment", "", AT_ITS_END, 0, shop(table(*(f"u{n % 9}\ti{n % 7}\t5" for n in range(60))))),
        ("everything twice", "", AT_ITS_END, 0, shop(table(*ROWS, *ROWS))),
        ("time before 1970", "", AT_ITS_END, 0, shop(table(*walk(9, 4, 7, -1000)))),
        ("time of 1e300", "", AT_ITS_END, 0, shop(table(*(f"u{n % 9}\ti{n % 7}\t1e300" for n in range(60))))),
        ("letters of every kind", "", AT_ITS_END, 0, shop(GOOD.replace("u1\t", "ü漢🙂\t").replace("i1\t", "it em\t"))),
        ("longest token", "", AT_ITS_END, 0, shop(GOOD.replace("u1\t", "x" * 131_072 + "\t"))),
        ("Windows line ends", "", AT_ITS_END, 0, shop(GOOD.replace("\n", "\r\n"))),
        ("no line end", "", AT_ITS_END, 0, shop(GOOD.rstrip("\n"))),
        ("blank lines", "", AT_ITS_END, 0, shop(GOOD + "\n\n\n")),
        ("ids that are numbers", "", AT_ITS_END, 0, shop(table(*(f"{n % 9}\t{n % 7}\t{n}" for n in range(60))))),
        ("more columns", "", AT_ITS_END, 0, shop(table(*(f"{row}\t3" for row in ROWS), header=HEADER + "\trating:float"))),
        ("long history", "--MAX_ITEM_LIST_LENGTH=3", AT_ITS_END, 0, shop(table(*walk(4, 200, 30)))),
        ("history of one", "--MAX_ITEM_LIST_LENGTH=1", AT_ITS_END, 0),
        ("cut beyond the items", "--topk=[500] --valid_metric=NDCG@500", "topk|500|result: runs/", 0),
        ("no validation", "--eval_args='{split: {LS: test_only}}'", AT_ITS_END, 0),
        ("no test", "--eval_args='{split: {LS: valid_only}}'", AT_ITS_END, 0),
        ("nothing to train on", "--eval_args='{split: {RS: [0, 1, 1]}}'", "30 training targets[^~]*result: runs/", 0),
        ("one row a batch", "--train_batch_size=1 --eval_batch_size=1 --epochs=1", "given twice", 2),
        ("unknown place", "--data_path=nowhere", "nowhere/shop", 2),
        ("place is a file", "--data_path=taken", "taken", 2, file("taken", "x")),
        ("name of no folder", "", "dataset/shop/shop.inter", 2, lambda folder: (folder / "dataset" / "shop").rename(folder / "dataset" / "stop")),
    ],
)  # fmt: skip
BOUNDARIES += rows(
    "boundaries of data sets",
    AUGMENTED,
    [
        ("as many neighbours as memories", "--alpha=0.3", AT_ITS_END, 0, shop(table(*walk(3, 4, 4)))),
        ("fewer memories than neighbours", "", "memories", 2, shop(table(*walk(2, 3, 4)))),
        ("one item, remembered", "", AT_ITS_END, 0, shop(table(*walk(9, 4, 1)))),
        ("one moment, past memories", "--memory_scope=past", "no training row has a memory that it may see", 2, shop(table(*(f"u{n % 9}\ti{n % 7}\t5" for n in range(60)))), True),
        ("no patterns to remember", "--memory_source=patterns", "no pattern|empty|memories", 2, shop(table(*(f"u{n}\ti{4 * n + k}\t{k}" for n in range(9) for k in range(4))))),
    ],
)  # fmt: skip
BOUNDARIES += rows(
    "boundaries of data sets",
    EVERYTHING,
    [
        ("regenerated from three each", "", AT_ITS_END, 0, shop(table(*walk(30, 5, 6)))),
        ("regenerated of one item", "", f"no pattern|{AT_ITS_END}", 0, shop(table(*walk(9, 6, 1)))),
        ("nothing in common", "", "no pattern occurs in 2 sequences", 2, shop(table(*(f"u{n}\ti{6 * n + k}\t{k}" for n in range(9) for k in range(6))))),
        ("separators in tokens", "--export_dir=made", "every possible separator|separator", 2, shop(GOOD.replace("i1\t", "a b\t").replace("i2\t", "a,b;c|d\t"))),
        ("no value as a name", "--export_dir=made", "no name to RecBole", 2, shop(GOOD.replace("u1\t", "[PAD]\t"))),
    ],
)  # fmt: skip

NAMES = [
    ("name too long", PLAIN.replace("=shop", "=" + "n" * 300), "dataset/nnn.*cannot be read .File name too long.; check its name"),
    ("name with a slash", PLAIN.replace("=shop", "=../../etc"), "etc"),
    ("name of nothing", PLAIN.replace("=shop", "=''"), "--dataset is missing"),
    ("name of dots", PLAIN.replace("=shop", "=.."), r"\.\."),
    ("RecBole's, behind a link to itself", PLAIN.replace("=shop", "=ml-100k") + " --data_path=dataset", "dataset/ml-100k", 2, put_link("dataset/ml-100k", "ml-100k")),
    ("RecBole's, a file in its place", PLAIN.replace("=shop", "=ml-100k") + " --data_path=dataset", "dataset/ml-100k", 2, file("dataset/ml-100k", "x")),
    ("RecBole's, a folder in place of the file", PLAIN.replace("=shop", "=ml-100k") + " --data_path=dataset", "ml-100k.inter: is a directory", 2, put_folder("dataset/ml-100k/ml-100k.inter")),
    ("RecBole's, the file missing", PLAIN.replace("=shop", "=ml-100k") + " --data_path=dataset", "dataset/ml-100k/ml-100k.inter: no such file", 2, put_folder("dataset/ml-100k")),
    ("place nowhere", PLAIN.replace("=shop", "=ml-100k") + " --data_path=nowhere", "data_path='nowhere' is no folder"),
]  # fmt: skip

ATOMIC = rows("atomic files", "", NAMES) + rows(
    "atomic files",
    PLAIN,
    [
        ("empty", "", "shop.inter: is empty", 2, shop("")),
        ("no header", "", "line 1: no header, found", 2, shop("\n".join(ROWS))),
        ("only a header", "", "has a header but no rows", 2, shop(HEADER + "\n")),
        ("only line ends", "", "line 1: no header", 2, shop("\n\n\n")),
        ("commas", "", "separated by comma, not tab; set field_separator", 2, shop(GOOD.replace("\t", ","))),
        ("no time", "", "line 1: no column 'timestamp:float'.*", 2, replaced("timestamp:float", "when:float")),
        ("type unknown", "", "unknown type 'flaot'.*did you mean 'float'", 2, replaced("timestamp:float", "timestamp:flaot")),
        ("no type", "", "column 'timestamp' has no type", 2, replaced("timestamp:float", "timestamp")),
        ("wrong type", "", "column 'item_id' is of type float, must be token", 2, replaced("item_id:token", "item_id:float")),
        ("column twice", "", "column 'item_id' is there twice", 2, shop(table("a\tb\t1\tc", header=HEADER + "\titem_id:token"))),
        ("byte-order mark", "", "byte-order mark", 2, shop("\ufeff" + GOOD)),
        ("UTF-16", "", "line 1: byte 0xff is not UTF-8", 2, shop(GOOD.encode("utf-16"))),
        ("Latin-1", "", "line 182: byte 0xe9 is not UTF-8", 2, shop(GOOD.encode() + "é\ti1\t1\n".encode("latin-1"))),
        ("compressed", "", "line 1: byte 0x8b is not UTF-8 text; save the file as UTF-8, uncompressed", 2, shop(gzip.compress(GOOD.encode()))),
        ("noise", "", "line 1: byte 0x.. is not UTF-8", 2, shop(NOISE)),
        ("NUL in a token", "", "shop.inter, line 182: .*NUL byte", 2, shop(GOOD + "u\0\ti1\t1\n")),
        ("NUL in a time", "", "shop.inter, line 182: .*NUL byte|not a number", 2, shop(GOOD + "u1\ti1\t1\0\n")),
        ("NUL in the header", "", "shop.inter, line 1: .*NUL byte", 2, replaced("user_id", "user\0_id")),
        ("nothing but NUL", "", "shop.inter, line 1: .*NUL byte", 2, shop(b"\0" * 4096)),
        ("NUL at the end", "", "shop.inter, line 182: .*NUL byte", 2, shop(GOOD.encode() + b"\0" * 4096)),
        ("token too long", "", "line 182: a field holds more than 131,072 characters, which RecBole does not read; shorten it", 2, shop(GOOD + f"{LONG}\ti1\t1\n")),
        ("quoted token too long", "", "line 182: a field holds more than 131,072 characters, which RecBole does not read; shorten it", 2, shop(GOOD + f'u1\t"{LONG}"\t1\n')),
        ("time too long", "", "line 182: a field holds more than 131,072 characters", 2, shop(GOOD + f"u1\ti1\t{'1' * 140_000}\n")),
        ("header too long", "", "line 1: is longer than any header, found 'x", 2, replaced("user_id", LONG)),
        ("short row", "", "line 182: 2 fields where the header has 3", 2, shop(GOOD + "u1\ti1\n")),
        ("long row", "", "line 182: 4 fields where the header has 3", 2, shop(GOOD + ONE_MORE + "\t1\n")),
        ("cut in the middle", "", "line 181: . fields where the header has 3|line 181", 2, shop(GOOD[:-3])),
        ("no number", "", "line 182: column 'timestamp' holds 'noon', which is not a number", 2, shop(GOOD + "u1\ti1\tnoon\n")),
        ("underscores", "", "line 182: column 'timestamp' holds '1_0'", 2, shop(GOOD + "u1\ti1\t1_0\n")),
        ("infinite", "", "line 182: column 'timestamp' holds 'inf', which is not finite", 2, shop(GOOD + "u1\ti1\tinf\n")),
        ("no time given", "", "line 182: column 'timestamp' has no value", 2, shop(GOOD + "u1\ti1\t\n")),
        ("open quote", "", "line 182: a double quote opens a field and is not closed", 2, shop(GOOD + 'u1\t"i1\t1\n')),
        ("lonely user", "", "first: user 'lonely'", 2, shop(GOOD + "lonely\ti1\t1\n")),
        ("a folder in its place", "", "shop.inter: is a directory", 2, put_folder("dataset/shop/shop.inter")),
        ("a link to itself", "", "shop.inter: cannot be read .Too many levels of symbolic links", 2, put_link("dataset/shop/shop.inter", "shop.inter")),
        ("a link to nowhere", "", "shop.inter: no such file", 2, put_link("dataset/shop/shop.inter", "away")),
        ("its folder a link to itself", "", "dataset/shop", 2, put_link("dataset/shop", "shop")),
        ("a device", "", "shop.inter: is no file but a device or pipe", 2, put_link("dataset/shop/shop.inter", "/dev/null")),
        ("an endless device", "", "shop.inter: is no file but a device or pipe", 2, put_link("dataset/shop/shop.inter", "/dev/zero")),
        ("a pipe", "", "shop.inter: is no file but a device or pipe", 2, lambda folder: ((folder / "dataset/shop/shop.inter").unlink(), os.mkfifo(folder / "dataset/shop/shop.inter"))),
    ],
)  # fmt: skip


def review(**changed: object) -> bytes:
    entry = {"reviewerID": "u", "asin": "B000000001", "unixReviewTime": 5, "overall": 4.0, **changed}
    return json.dumps(entry).encode() + b"\n"


def bomb() -> bytes:
    """256 MiB of zeros in 256 kB."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as unpacked:
        for _ in range(256):
            unpacked.write(bytes(1 << 20))
    return packed.getvalue()


def parquet_of(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


CSV = "user,item,time\n" + "\n".join(f"u{n % 5},i{n % 7},{n}" for n in range(60)) + "\n"
FIVE = review() * 5


def source(name: str, content: str | bytes | Callable[[], bytes]) -> Callable[[Path], Path]:
    return lambda folder: write(folder / name, content() if callable(content) else content)


def prepared(
    name: str, words: str, line: str, code: int, content: str | bytes | Callable[[], bytes]
) -> tuple[object, ...]:
    """A case of a source with a name, given as the first of the words."""
    return name, f"{words} --name=made", line, code, source(words.split()[0], content)


PREPARE = rows(
    "prepare",
    "prepare",
    [
        prepared("a table", "s.csv", "5 users, 7 items, 60 interactions", 0, CSV),
        prepared("reviews", "s.json", "1 users, 1 items, 5 interactions", 0, FIVE),
        prepared("reviews, compressed", "s.json.gz", "5 interactions", 0, gzip.compress(FIVE)),
        prepared("sequences", "s.txt", "2 users", 0, "u1 a b c\nu2 a b c d\n"),
        prepared("Parquet", "s.parquet", "2 interactions", 0, parquet_of(user=["a", "b"], item=["c", "d"], time=[1, 2])),
        prepared("compressed, not named so", "s.csv", "60 interactions", 0, gzip.compress(CSV.encode())),
        prepared("compressed in part", "s.csv.gz", "s.csv.gz: is not a whole gzip file", 2, gzip.compress(CSV.encode())[:-20]),
        prepared("not compressed", "s.csv.gz", "s.csv.gz: is not a whole gzip file", 2, CSV),
        prepared("compressed, damaged", "s.csv.gz", "s.csv.gz: is not a whole gzip file", 2, gzip.compress(NOISE)[:200] + NOISE[:900]),
        prepared("noise", "s.csv", "s.csv.*(is no text|not UTF-8)", 2, NOISE),
        prepared("noise as a table", "s.csv --kind=table", "s.csv.*(is no text|not UTF-8)", 2, NOISE),
        prepared("noise as reviews", "s.csv --kind=amazon-reviews", "s.csv.*(is no text|not UTF-8|not JSON)", 2, NOISE),
        prepared("noise as sequences", "s.csv --kind=sequences", "s.csv.*(is no text|not UTF-8)", 2, NOISE),
        prepared("noise as ratings", "s.csv --kind=amazon-csv", "s.csv.*(is no text|not UTF-8)", 2, NOISE),
        prepared("compressed noise", "s.gz", "s.gz.*(is no text|not UTF-8)", 2, gzip.compress(NOISE)),
        prepared("NUL in an id", "s.csv", r"user_id 'u.x00' holds a .*NUL", 2, CSV + "u\0,i1,7\n"),
        prepared("NUL in a header", "s.csv", "s.csv: is no text, its first lines hold a NUL byte", 2, CSV.replace("user", "us\0er")),
        prepared("NUL in a time", "s.csv", "s.csv, line 62: timestamp .* is no number or ISO date", 2, CSV + "u1,i1,7\0\n"),
        prepared("NUL in a sequence", "s.txt", "its first lines hold a NUL byte", 2, "u1 a\0 b c\nu2 a b c d\n"),
        prepared("NUL in a review", "s.json", "holds a .*NUL", 2, FIVE + review(reviewerID="a\0")),
        prepared("nothing but NUL", "s.csv", "s.csv: is no text", 2, b"\0" * 5000),
        prepared("bomb of zeros", "s.csv.gz", "s.csv.gz: .* times its size", 2, bomb),
        prepared("bomb of zeros as sequences", "s.gz --kind=sequences", "s.gz: .* times its size", 2, bomb),
        prepared("bomb of zeros as reviews", "s.gz --kind=amazon-reviews", "s.gz: .* times its size", 2, bomb),
        prepared("list of reviews", "s.json", "s.json, line 1: is no JSON object.*write one review a line", 2, b"[" + b",".join([review().strip()] * 5) + b"]\n"),
        prepared("list of reviews, on lines", "s.json", "s.json, line 1: .*list.*one review a line", 2, json.dumps([json.loads(review())] * 5, indent=1)),
        prepared("list, as reviews", "s.json --kind=amazon-reviews", "line 1: .*list.*one review a line", 2, json.dumps([json.loads(review())] * 5, indent=1)),
        prepared("a review on lines", "s.json", "1 interactions", 0, json.dumps(json.loads(review()), indent=1)),
        prepared("deep review", "s.json", "dropped 1 of 6 rows", 0, FIVE + b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
        prepared("deep list", "s.json", "s.json, line 1: begins a JSON list", 2, b"[" * 100_000 + b"]" * 100_000),
        prepared("header on two lines", "s.csv --columns=user_id:us", "s.csv", 2, CSV.replace("user", '"us\ner"')),
        prepared("deep braces", "s.json", "s.json, line 1: is nested too deep", 2, b'{"a":' * 100_000),
        prepared("review cut", "s.json", "line 6: is not JSON", 2, FIVE + review()[:-10]),
        prepared("review that is a number", "s.json", "line 6: is no JSON object", 2, FIVE + b"5\n"),
        prepared("review of a text time", "s.json", "line 6: unixReviewTime is 'noon', must be a number", 2, FIVE + review(unixReviewTime="noon")),
        prepared("review of an infinite time", "s.json", "timestamp|number", 2, FIVE + review(unixReviewTime=float("inf"))),
        prepared("review of a huge time", "s.json", "line 6: .*unixReviewTime|timestamp", 2, FIVE.replace(b'"unixReviewTime": 5', b'"unixReviewTime": ' + b"9" * 5000)),
        prepared("reviews without ids", "s.json", "none of its 5 rows has user, item and time", 2, b'{"a": 1}\n' * 5),
        prepared("ragged table", "s.csv", "line 62: 2 fields where there should be 3", 2, CSV + "u1,i1\n"),
        prepared("table without columns", "s.csv", "cannot tell what kind of file it is", 2, "a,b\n1,2\n"),
        prepared("table, column unknown", "s.csv --columns=user_id:usr", "no column 'usr' for user_id.*did you mean 'user'", 2, CSV),
        prepared("table, column twice", "s.csv --columns=user_id:user,item_id:user", "'user' is taken for two roles", 2, CSV),
        prepared("table, role unknown", "s.csv --columns=usr_id:user", "columns: 'usr_id' is unknown", 2, CSV),
        prepared("table, no role", "s.csv --columns=user", "'user' is not ROLE:COLUMN", 2, CSV),
        prepared("table, quote open", "s.csv", "s.csv", 2, CSV + '"u1,i1,7\n'),
        prepared("table, id too long", "s.csv", "user_id 'x*…' is longer than 131,072 characters; shorten it", 2, CSV + f"{LONG},i1,7\n"),
        prepared("table, header too long", "s.csv --columns=item_id:item", "s.csv: is no table .field larger than field limit", 2, CSV.replace("user", LONG)),
        prepared("table, quote in an id", "s.csv", "holds a tab, line break", 2, CSV + '"u""1",i1,7\n'),
        prepared("table, no time", "s.csv", "line 62: timestamp 'noon' is no number or ISO date", 2, CSV + "u1,i1,noon\n"),
        prepared("ratings that are no ASINs", "s.csv --kind=amazon-csv", "cannot tell users from items", 2, "a,b,5,1\n"),
        prepared("sequence without items", "s.txt --kind=sequences", "line 2: user 'u2' has no items", 2, "u1 a b c\nu2\n"),
        prepared("sequence twice", "s.txt --kind=sequences", "line 2: user 'u1' had a line before", 2, "u1 a b c\nu1 a b\n"),
        prepared("Parquet cut", "s.parquet", "s.parquet: is not Parquet", 2, parquet_of(user=["a"], item=["c"], time=[1])[:-9]),
        prepared("Parquet damaged", "s.parquet", "s.parquet: is not Parquet", 2, b"PAR1" + NOISE + b"PAR1"),
        prepared("Parquet of lists", "s.parquet", "user_id holds list", 2, parquet_of(user=[["a"]], item=["c"], time=[1])),
        prepared("Parquet of fractions", "s.parquet", "user_id holds fractions", 2, parquet_of(user=[1.5], item=["c"], time=[1])),
        prepared("Parquet, empty", "s.parquet", "none of its 0 rows", 2, parquet_of(user=[], item=[], time=[])),
        prepared("blank", "s.csv", "s.csv: has only blank lines", 2, "\n\n \n"),
        prepared("empty", "s.csv", "s.csv: is empty", 2, ""),
        prepared("Latin-1", "s.csv", "s.csv.*(is no text|not UTF-8)", 2, CSV.encode() + "é,i1,1\n".encode("latin-1")),
        prepared("UTF-16", "s.csv", "s.csv.*(is no text|not UTF-8)", 2, CSV.encode("utf-16")),
        prepared("kind unknown", "s.csv --kind=tables", "kind 'tables' is unknown.*did you mean 'table'", 2, CSV),
        prepared("columns of sequences", "s.txt --kind=sequences --columns=user_id:a", "has no named columns", 2, "u1 a b\n"),
        ("source missing", "s.csv --name=made", "s.csv: no such file"),
        ("source a folder", "dataset --name=made", "dataset: is a directory"),
        ("source a link to itself", "s.csv --name=made", "s.csv: cannot be read .Too many levels of symbolic links", 2, put_link("s.csv", "s.csv")),
        ("source a device", "/dev/zero --name=made", "/dev/zero: is no file but a device or pipe"),
        ("source a pipe", "p --name=made", "p: is no file but a device or pipe", 2, lambda folder: os.mkfifo(folder / "p")),
        ("source name too long", f"{'s' * 300} --name=made", "sss: cannot be read .File name too long"),
        ("name too long", f"s.csv --name={'n' * 300}", "name is too long for the file system; shorten it", 2, source("s.csv", CSV)),
        ("name just too long", f"s.csv --name={'n' * 252}", "name is too long for the file system; shorten it", 2, source("s.csv", CSV)),
        ("name with a slash", "s.csv --name=../x", "no plain directory name", 2, source("s.csv", CSV)),
        ("name of dots", "s.csv --name=..", "no plain directory name", 2, source("s.csv", CSV)),
        ("name taken", "s.csv --name=shop", "shop.inter: exists already", 2, source("s.csv", CSV)),
        ("place a file", "s.csv --name=x --out=s.csv", "s.csv/x", 2, source("s.csv", CSV)),
    ],
)  # fmt: skip


@pytest.mark.parametrize(
    "case", [*BOUNDARIES, *ATOMIC, *PREPARE], ids=lambda case: f"{case.kind}: {case.name}"
)
def test_files(case: Case, arena: Arena) -> None:
    arena.check(case)
