"""Early stopping with a margin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recbole.trainer import trainer as recbole_trainer
from recbole.utils import early_stopping

from recbole_ra.training.patience import Patience


def trained(
    patience: object, values: list[float], max_step: int, *, bigger: bool = True
) -> tuple[int, float]:
    """Epochs until it stops, and the best value that was kept."""
    best, waited, kept = -float("inf") if bigger else float("inf"), 0, float("nan")
    for epoch, value in enumerate(values, start=1):
        best, waited, stop, keep = patience(value, best, waited, max_step, bigger)  # type: ignore[operator]
        kept = value if keep else kept
        if stop:
            return epoch, kept
    return len(values), kept


def test_a_plateau_ends_it_and_its_best_epoch_is_kept() -> None:
    plateau = [1.0, 2.0, *(2.0 + 0.001 * step for step in range(1, 30))]
    assert trained(Patience(0.0), plateau, 3) == (31, plateau[-1])
    assert trained(Patience(0.005), plateau, 3) == (6, plateau[5])
    # Small gains that add up to the margin count.
    assert trained(Patience(0.001), plateau, 3)[0] == 31


@pytest.mark.parametrize("bigger", [True, False])
@given(
    values=st.lists(st.sampled_from([0.1, 0.11, 0.2, 0.4, 0.41]), min_size=1, max_size=20),
    max_step=st.integers(0, 4),
)
def test_without_a_margin_it_is_that_of_recbole(bigger: bool, values: list[float], max_step: int) -> None:
    expected = trained(early_stopping, values, max_step, bigger=bigger)
    assert trained(Patience(0.0), values, max_step, bigger=bigger) == expected


def test_recbole_asks_it_only_meanwhile() -> None:
    patience = Patience(0.1)
    with patience.applied():
        assert recbole_trainer.early_stopping is patience
    assert recbole_trainer.early_stopping is early_stopping
