"""Titles of items come with the data, whatever form they have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_ra.core.errors import DataError, RecboleRaError
from recbole_ra.prepare import interactions
from recbole_ra.prepare.interactions import prepare
from recbole_ra.prepare.titles import read_titles, titles_beside

EXPECTED = {"B1": "Soap, 2 pieces", "B2": "It's a 'towel'"}
ROWS = [("B1", "Soap, 2 pieces"), ("B2", 'It\'s a "towel"'), ("B3", None)]


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    path = tmp_path / "ratings.csv"
    path.write_text(
        "user,item,time\n" + "".join(f"u{u},B{i},{u + i}\n" for u in range(4) for i in range(1, 4))
    )
    return path


def write(form: str, folder: Path) -> Path:
    path = folder / form
    frame = pd.DataFrame(ROWS, columns=["item_id", "title"])
    objects = [{"asin": item, "title": title, "price": 3.5} for item, title in ROWS]
    match form:
        case "meta.json.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in objects).encode()))
        case "meta2014.json":
            path.write_text("".join(f"{line!r}\n" for line in objects))
        case "meta2023.jsonl":
            lines = [{"parent_asin": line["asin"], "title": line["title"]} for line in objects]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        case "items.csv":
            frame.to_csv(path, index=False)
        case "items.tsv":
            frame.rename(columns={"title": "productName"}).to_csv(path, index=False, sep="\t")
        case "items.parquet":
            frame.to_parquet(path)
        case "films.item":
            path.write_text("item_id:token\tmovie_title:token_seq\nB1\tSoap, 2 pieces\nB2\tIt's a 'towel'\n")
    return path


FORMS = "meta.json.gz meta2014.json meta2023.jsonl items.csv items.tsv items.parquet films.item".split()


@pytest.mark.parametrize("form", FORMS)
def test_prepare_keeps_them_beside_the_interactions(form: str, ratings: Path, tmp_path: Path) -> None:
    made = prepare(ratings, "shop", tmp_path / "out", titles=write(form, tmp_path))
    assert "titles of 2 of 3 items" in made.notes
    assert titles_beside(made.path.parent, "shop") == EXPECTED


def test_a_table_that_has_titles_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "views.csv"
    path.write_text("user,movieId,time,title\na,7,1,Heat\na,8,2,\nb,7,3,Heat\nb,8,4,Ran\n")
    made = prepare(path, "films", tmp_path / "out")
    assert titles_beside(made.path.parent, "films") == {"7": "Heat", "8": "Ran"}


def test_without_titles_there_is_no_item_file(ratings: Path, tmp_path: Path) -> None:
    made = prepare(ratings, "shop", tmp_path / "out")
    assert not made.path.with_suffix(".item").exists()
    assert titles_beside(made.path.parent, "shop") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no column for item_id and title; there are a, b; name it: --columns=item_id:NAME"),
        ('{"asin": "B1", "title": "x"}\n{broken\n', "line 2: is no object"),
        ('{"asin": "B1"}\n[1]\n', "line 2: is no object"),
        ("{'asin': open('x')}\n", "line 1: is no object"),
        ("", "empty"),
    ],
)
def test_a_file_without_titles_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "titles"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        read_titles(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.parquet", b"no Parquet at all", "t.parquet: is not Parquet, or damaged"),
        ("t.csv", "item,title\nB1,Café\n".encode("latin-1"), "t.csv: is not UTF-8 text"),
        (
            "t.json.gz",
            gzip.compress(b'{"asin": "B1", "title": "Soap"}\n' * 99, mtime=0)[:-12],
            "not a whole gzip file",
        ),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, said: str, ratings: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        prepare(ratings, "shop", tmp_path / "out", titles=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_no_damage_to_a_parquet_file_ends_in_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rng = np.random.default_rng(0)
    columns = {"item": [f"B{i}" for i in range(99)], "title": [f"Film {i}" for i in range(99)]}
    pd.DataFrame(columns).to_parquet(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(4, len(content) - 4, 8):
            content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(content))
        try:
            read_titles(path)
        except DataError:
            refused += 1
    assert refused > 20


def test_an_item_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop.item").write_text("item_id:token\ttitle:token\nB1\t" + "x" * 140_000 + "\n")
    with pytest.raises(DataError, match=r"shop\.item: is no table \(field larger"):
        titles_beside(tmp_path, "shop")


def test_titles_of_the_data_set_before_are_removed(ratings: Path, tmp_path: Path) -> None:
    made = prepare(ratings, "shop", tmp_path / "out", titles=write("items.csv", tmp_path))
    again = prepare(ratings, "shop", tmp_path / "out", overwrite=True)
    assert titles_beside(made.path.parent, "shop") == {}
    assert any("shop.item, which was of the data set before" in note for note in again.notes)


def test_half_a_character_of_a_title_is_left_out(ratings: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"item_id": "B1", "title": "New \\ud83d soap"}\n')
    made = prepare(ratings, "shop", tmp_path / "out", titles=tmp_path / "t.jsonl")
    assert titles_beside(made.path.parent, "shop") == {"B1": "New ? soap"}


def test_rows_that_cannot_be_written_leave_the_titles_of_those_before(
    ratings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(ratings, "shop", tmp_path / "out", titles=write("items.csv", tmp_path))
    before = {path: path.read_bytes() for path in made.path.parent.iterdir()}

    def refuse(*_: object) -> None:
        raise RecboleRaError("injected")

    monkeypatch.setattr(interactions, "write_inter", refuse)
    (tmp_path / "t.jsonl").write_text('{"item_id": "B1", "title": "Another"}\n')
    with pytest.raises(RecboleRaError, match="injected"):
        prepare(ratings, "shop", tmp_path / "out", titles=tmp_path / "t.jsonl", overwrite=True)
    assert {path: path.read_bytes() for path in made.path.parent.iterdir()} == before


def test_odd_literals_of_metadata_are_named(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{'asin': 'B1', 'title': 'Soap'}\n{'asin': {[1]}}\n")
    with pytest.raises(DataError, match="line 2: is no object"):
        read_titles(tmp_path / "meta.json")


def prepared_titles(folder: Path, text: str, **how: Any) -> tuple[str, tuple[str, ...]]:
    source = folder / "events.csv"
    source.write_text(text)
    made = prepare(source, "shop", folder / "dataset", **how)
    titles = made.path.with_suffix(".item")
    return titles.read_text() if titles.exists() else "", made.notes


def test_a_name_beside_interactions_may_be_the_users(tmp_path: Path) -> None:
    text = "user_id,name,item_id,date\nu1,Alice,7,2023-01-02\nu2,Bob,8,2023-01-03\n"
    titles, notes = prepared_titles(tmp_path, text)
    assert titles == ""
    assert "title" not in notes[0]
    titles, notes = prepared_titles(tmp_path, text, columns={"title": "name"}, overwrite=True)
    assert titles == "item_id:token\ttitle:token\n7\tAlice\n8\tBob\n"
    assert notes[0].endswith(", title = name")
    with pytest.raises(DataError, match="no column 'nme' for title; there are user_id, name, item_id, date"):
        prepared_titles(tmp_path, text, columns={"title": "nme"}, overwrite=True)


def test_columns_are_those_of_the_titles_too(tmp_path: Path) -> None:
    (tmp_path / "titles.csv").write_text("code,what\n a ,Apple\nb,Bread\n")
    columns = {"user_id": "u", "item_id": "code", "timestamp": "t", "title": "what"}
    text = "u,code,t\n1, a,1\n1,b ,2\n 1 ,a,3\n"
    titles, _ = prepared_titles(tmp_path, text, titles=tmp_path / "titles.csv", columns=columns)
    assert titles == "item_id:token\ttitle:token\na\tApple\nb\tBread\n"
    rows = (tmp_path / "dataset" / "shop" / "shop.inter").read_text().splitlines()[1:]
    assert rows == ["1\ta\t1", "1\tb\t2", "1\ta\t3"]
