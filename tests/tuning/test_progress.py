"""What a sweep says of its trials while it runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="make setup-tune installs it")

from recbole_ra.tuning.progress import _error_of

HEAD = 'Failure # 1 (occurred at noon)\nTraceback (most recent call last):\n  File "x.py", line 1, in f\n'


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("recbole_ra.core.errors.DataError: no rows: none\n", "DataError: no rows: none"),
        (
            "torch.AcceleratorError: CUDA error\nCompile with `X` to enable assertions.\n",
            "AcceleratorError: CUDA",
        ),
        ("MemoryError\n\n", "MemoryError"),
        ("the process died\n", "the process died"),
    ],
)
def test_a_failed_trial_says_what_was_raised(raised: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    file.write_text(HEAD + raised)
    assert _error_of(SimpleNamespace(error_file=str(file))).startswith(said)


def test_a_trial_without_a_file_says_nothing(tmp_path: Path) -> None:
    assert _error_of(SimpleNamespace(error_file=None)) == ""
    assert _error_of(SimpleNamespace(error_file=str(tmp_path / "gone"))) == ""
