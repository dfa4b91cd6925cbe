"""Reviews are read whatever their blocks, and whatever JSON they are; tests/prepare/test_interactions.py
reads every format."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from recbole_ra.core.errors import DataError
from recbole_ra.prepare import readers

REVIEW = '{"reviewerID": "A1", "asin": "B01", "overall": 5.0, "unixReviewTime": 10}\n'


def test_json_in_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 100)
    path = tmp_path / "r.json"
    path.write_text(REVIEW * 7 + "{\n" + REVIEW)
    with pytest.raises(DataError, match=r"r\.json, line 8: is not JSON"):
        readers.read_reviews(path)
    path.write_text("".join(REVIEW.replace("10", str(time)) for time in range(9)))
    table, notes = readers.read_reviews(path)
    assert table["timestamp"].to_pylist() == list(range(9))
    assert notes == []


def test_json_beyond_what_arrow_parses(tmp_path: Path) -> None:
    odd = '{"reviewerID": "A2", "asin": 7, "unixReviewTime": 11, "reviewText": "\\ud83d"}\n'
    path = tmp_path / "r.jsonl"
    path.write_text(REVIEW + odd)
    table, _ = readers.read_reviews(path)
    assert table.to_pylist() == [
        {"user_id": "A1", "item_id": "B01", "timestamp": 10.0, "rating": 5.0},
        {"user_id": "A2", "item_id": "7", "timestamp": 11.0, "rating": None},
    ]


def test_what_unpacks_to_more_than_data_could_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json.gz"
    path.write_bytes(gzip.compress(REVIEW.encode() * 50_000))
    assert len(readers.read_reviews(path)[0]) == 50_000
    monkeypatch.setattr(readers, "_MOST_BYTES", 1 << 20)
    monkeypatch.setattr(readers, "_MOST_TIMES", 20)
    with pytest.raises(DataError, match=r"r\.json\.gz: decompresses to more than 20 times its size"):
        readers.read_reviews(path)
