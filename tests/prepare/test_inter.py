"""What is written as an atomic file passes the check and keeps its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_ra.core.errors import DataError
from recbole_ra.data.atomic import check_atomic_file
from recbole_ra.prepare.inter import complete_rows, write_inter

REQUIRED = {"user_id": "token", "item_id": "token", "timestamp": "float"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.inter"


def test_written_file_reads_back(path: Path) -> None:
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


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters='\t\r\n"', exclude_categories=["C"]), min_size=1),
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
    assert [line[0] for line in lines] == ids
    assert [float(line[2]) for line in lines] == times


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"user_id": ["a\tb"]}, "user_id 'a\\\\tb' holds a tab"),
        ({"item_id": ['a"b']}, "item_id 'a\"b' holds"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, change: dict[str, list[str]], match: str
) -> None:
    path.write_text("old")
    rows = pa.table({"user_id": ["1"], "item_id": ["2"], "timestamp": [3.0], **change})
    with pytest.raises(DataError, match=match):
        write_inter(rows, path)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
