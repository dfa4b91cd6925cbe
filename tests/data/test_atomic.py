"""The atomic file check names the first fault; what it accepts, RecBole reads as written."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_ra.core.errors import DataError, SettingsError
from recbole_ra.data import atomic
from recbole_ra.data.atomic import check_atomic_file, is_there

REQUIRED = {"user_id": "token", "item_id": "token", "timestamp": "float"}
HEADER = b"user_id:token\titem_id:token\ttimestamp:float\n"


def check(path: Path, content: bytes, separator: str = "\t") -> None:
    path.write_bytes(content)
    check_atomic_file(path, required=REQUIRED, separator=separator)


def fault(path: Path, content: bytes, separator: str = "\t") -> str:
    """The message for a file, which must be one line that names the file."""
    with pytest.raises(DataError) as caught:
        check(path, content, separator)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.inter"


@pytest.mark.parametrize("name", ["amazon-beauty", "amazon-toys", "amazon-sports", "yelp"])
def test_real_data_sets_are_accepted(shared_dataset: Path, name: str) -> None:
    check_atomic_file(shared_dataset / name / f"{name}.inter", required=REQUIRED)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (b"1\t2\t3\n", "plain"),
        (b"u-1\tB00\t1.5e9", "ids of text, no final line break"),
        (b"\t2\t3\n1\t\t3\n", "rows without user or item, which RecBole drops"),
        (b"1\t2\t+3\r\n\r\n1\t2\t -4.5\r\n", "Windows line ends, a blank line, signs"),
        (b"1\t2\t3\r1\t2\t4\r", "line ends of old Macs"),
        (b'"1"\t"a\tb"\t"3"\n', "closed quotes"),
        (b'a"b\t2\t3\n', "a quote inside an id"),
        ("é\t日本\t3\n".encode(), "ids beyond ASCII"),
    ],
)
def test_legal_variations_are_accepted(path: Path, rows: bytes, why: str) -> None:
    check(path, HEADER + rows)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty"]),
        (b"user,item,time\n1,2,3\n", ["line 1", "no header", "'user,item,time'", "user_id:token"]),
        (b"\n", ["line 1", "no header"]),
        (b"user_id:token\titem_id\ttimestamp:float\n", ["'item_id' has no type"]),
        (b"user_id:token\titem_id:tokn\ttimestamp:float\n", ["unknown type 'tokn'", "did you mean 'token'"]),
        (b"user_id:token\tuser_id:token\n", ["'user_id' is there twice"]),
        (HEADER.replace(b"\t", b",") + b"1,2,3\n", ["comma, not tab", "field_separator to ','"]),
        (HEADER.replace(b"\t", b" "), ["space, not tab", "field_separator to ' '"]),
        (
            b"user_id:token\titem_id:token\ttime_stamp:float\n1\t2\t3\n",
            ["no column 'timestamp:float'", "user_id, item_id, time_stamp", "did you mean 'time_stamp'"],
        ),
        (HEADER.replace(b"float", b"token") + b"1\t2\t3\n", ["'timestamp' is of type token, must be float"]),
        (HEADER, ["header but no rows"]),
        (HEADER + b"\n\n", ["header but no rows"]),
        (HEADER + b"1\t2\t3\n1\t2\n", ["line 3", "2 fields where the header has 3"]),
        (HEADER + b"1\t2\t3\n\n1\t2\t3\t4\n", ["line 4", "4 fields where the header has 3"]),
        (HEADER + b"1\t2\t3\n1\t2\tsoon\n", ["line 3", "'timestamp' holds 'soon'", "not a number"]),
        (HEADER + b"1\t2\t1_000\n", ["line 2", "'1_000'", "not a number"]),
        (HEADER + b"1\t2\t\n", ["line 2", "'timestamp' has no value"]),
        (HEADER + b"1\t2\tNaN\n", ["line 2", "'timestamp' has no value ('NaN')"]),
        (HEADER + b"1\t2\tinf\n", ["line 2", "'timestamp' holds 'inf'", "not finite"]),
        (HEADER + b'1\t2\t3\n"1\t2\t3\n4\t5\t6\n', ["line 3", "double quote", "not closed"]),
        # Arrow and pandas take everything between two such quotes as one field.
        (HEADER + b'1\t"2\t3\n4\t5\t6\n7\t8"\t9\n', ["line 2", "double quote", "not closed"]),
        (HEADER + b'1\t2\t3\n"1"x\t2\t3\n', ["line 3", "double quote"]),
        (HEADER + b"1\t2\t3\n1\t2\r2\t3\n", ["line 3", "a carriage return inside"]),
        (HEADER + b"1\t2\t3\n1\t\xe9\t3\n", ["line 3", "0xe9 is not UTF-8"]),
        (b"\xef\xbb\xbf" + HEADER, ["line 1", "byte-order mark"]),
        (HEADER.decode().encode("utf-16"), ["line 1", "not UTF-8"]),
        (b"\x1f\x8b\x08\x00", ["not UTF-8", "uncompressed"]),
        (HEADER + b"1\t2\t3\n1\0\t2\t3\n", ["line 3", "NUL byte"]),
        (HEADER.replace(b"user", b"us\0er") + b"1\t2\t3\n", ["line 1", "NUL byte"]),
        (HEADER + b"1\t" + b"2" * 131_073 + b"\t3\n", ["line 2", "more than 131,072 characters"]),
        (HEADER + b'1\t"' + b"2" * 131_073 + b'"\t3\n', ["line 2", "more than 131,072 characters"]),
        (b"x" * 140_000, ["line 1", "longer than any header", "'xxx"]),
    ],
)
def test_fault_is_named(path: Path, content: bytes, parts: list[str]) -> None:
    message = fault(path, content)
    assert [part for part in parts if part not in message] == []


def test_missing_file_and_directory(tmp_path: Path) -> None:
    (tmp_path / "beauty.inter").touch()
    with pytest.raises(DataError, match=r"no such file; did you mean 'beauty.inter'"):
        check_atomic_file(tmp_path / "beuty.inter", required=REQUIRED)
    with pytest.raises(DataError, match="no directory"):
        check_atomic_file(tmp_path / "none" / "x.inter", required=REQUIRED)
    with pytest.raises(DataError, match="is a directory"):
        check_atomic_file(tmp_path, required=REQUIRED)


def test_what_is_no_file_or_not_to_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, fault in (
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / ("n" * 300), "File name too long"),
        (Path("/dev/zero"), "is no file but a device or pipe"),
    ):
        with pytest.raises(DataError, match=fault):
            check_atomic_file(path, required=REQUIRED)
    assert is_there(tmp_path / "loop")
    assert not is_there(tmp_path / "none")

    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    (tmp_path / "x.inter").write_bytes(HEADER)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(DataError, match=r"x\.inter: cannot be read \(Permission denied\)"):
        check_atomic_file(tmp_path / "x.inter", required=REQUIRED)
    with pytest.raises(DataError, match="cannot be read"):
        is_there(tmp_path)


def test_the_longest_field_is_taken(path: Path) -> None:
    check(path, HEADER + b"1\t" + b"2" * 131_072 + b"\t3\n")


def test_other_separator(path: Path) -> None:
    check(path, HEADER.replace(b"\t", b",") + b"1,2,3\n", separator=",")
    assert "line 2" in fault(path, HEADER.replace(b"\t", b",") + b"1\t2\t3\n", separator=",")
    with pytest.raises(SettingsError, match="field_separator"):
        check(path, HEADER, separator="::")


def test_gaps_are_allowed_in_columns_that_are_not_required(path: Path) -> None:
    header = HEADER.rstrip() + b"\trating:float\n"
    check(path, header + b"1\t2\t3\t\n1\t2\t3\tNA\n1\t2\t3\t4.5\n")
    assert "'rating' holds 'good'" in fault(path, header + b"1\t2\t3\tgood\n")


@settings(max_examples=30, deadline=None)
@given(n_rows=st.integers(1, 300), data=st.data())
def test_the_broken_line_is_found_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, n_rows: int, data: st.DataObject
) -> None:
    bad = data.draw(st.integers(0, n_rows - 1))
    row = data.draw(
        st.sampled_from([b"1\t2", b"1\t2\t3\t4", b"1\t2\tx", b"1\t2\tnan", b'"1\t2\t3', b"\xff\t2\t3"])
    )
    rows = [b"1\t2\t3"] * n_rows
    rows[bad] = row
    path = tmp_path_factory.mktemp("check") / "x.inter"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "_BLOCK_BYTES", data.draw(st.integers(1, 100)))
        assert f"line {bad + 2}:" in fault(path, HEADER + b"\n".join(rows))


def test_two_hundred_thousand_rows_take_a_fraction_of_a_second(path: Path) -> None:
    path.write_bytes(
        HEADER + b"".join(b"%d\t%d\t%d\n" % (row // 9, row % 997, row) for row in range(200_000))
    )
    check_atomic_file(path, required=REQUIRED)
    start = time.process_time()
    check_atomic_file(path, required=REQUIRED)
    assert time.process_time() - start < 0.5
