"""Views of histories: what each operator keeps, whatever is drawn."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.models.augmentation import CROP, MASK, REORDER, two_views, view

shares = st.sampled_from([0.0, 0.3, 0.6, 1.0])
MASK_ID = 99


@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=8),
    kind=st.sampled_from([CROP, MASK, REORDER]),
    share=shares,
    seed=st.integers(0, 99),
)
def test_each_operator(lengths: list[int], kind: int, share: float, seed: int) -> None:
    torch.manual_seed(seed)
    items = torch.zeros(len(lengths), 8, dtype=torch.int64)
    for row, length in enumerate(lengths):
        items[row, :length] = torch.arange(1, length + 1) + 10 * row
    found, sizes = view(
        items,
        torch.tensor(lengths),
        torch.full((len(lengths),), kind),
        crop=share,
        mask=share,
        reorder=share,
        mask_id=MASK_ID,
    )
    for row, length in enumerate(lengths):
        before, after = items[row, :length].tolist(), found[row, : sizes[row]].tolist()
        assert (found[row, sizes[row] :] == 0).all()
        changed = math.floor(torch.tensor(share) * length)
        if kind == CROP:
            assert len(after) == max(1, changed)
            assert after == list(range(after[0], after[0] + len(after)))
            assert set(after) <= set(before)
        elif kind == MASK:
            assert after.count(MASK_ID) == changed
            assert all(new in (old, MASK_ID) for old, new in zip(before, after, strict=True))
        else:
            assert sorted(after) == before
            moved = [place for place in range(length) if before[place] != after[place]]
            assert not moved or max(moved) - min(moved) < changed


def test_views_are_drawn_with_different_operators() -> None:
    """Of a long history each operator leaves marks of its own, and all pairs occur."""
    torch.manual_seed(0)
    items = torch.arange(1, 31).repeat(300, 1)
    lengths = torch.full((300,), 30)
    views = two_views(items, lengths, crop=0.6, mask=0.3, reorder=0.6, mask_id=MASK_ID)

    def operators(found: torch.Tensor, sizes: torch.Tensor) -> list[int]:
        masked = (found == MASK_ID).any(1)
        return torch.where(sizes < 30, CROP, torch.where(masked, MASK, REORDER)).tolist()

    pairs = set(zip(*(operators(*one) for one in views), strict=True))
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
