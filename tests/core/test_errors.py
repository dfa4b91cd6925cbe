from __future__ import annotations

import pytest

from recbole_ra.core.errors import CheckpointError, DataError, RecboleRaError, SettingsError, nearest


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sasrec", "; did you mean 'SASRec'?"),
        ("GRU4Rek", "; did you mean 'GRU4Rec'?"),
        ("SASRec", "; did you mean 'SASRec'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_name(name: str, hint: str) -> None:
    assert nearest(name, ["SASRec", "GRU4Rec"]) == hint


def test_nothing_is_near_where_nothing_is_known() -> None:
    assert nearest("x", []) == ""


@pytest.mark.parametrize("kind", [SettingsError, DataError, CheckpointError])
def test_every_error_is_of_one_kind(kind: type[RecboleRaError]) -> None:
    assert issubclass(kind, RecboleRaError)
    assert not issubclass(kind, ValueError | OSError | RuntimeError)
