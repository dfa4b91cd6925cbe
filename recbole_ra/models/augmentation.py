"""Random views of histories: cropped, masked or reordered, all rows at once (CL4SRec, eq. 5 to 7).

Shapes: ``B`` rows, ``L`` places.
"""

from __future__ import annotations

import torch
from torch import Tensor

CROP, MASK, REORDER = range(3)


def two_views(
    items: Tensor, lengths: Tensor, *, crop: float, mask: float, reorder: float, mask_id: int
) -> list[tuple[Tensor, Tensor]]:
    """Draw two views of each history by two different operators.

    Parameters
    ----------
    items : int64 Tensor, shape [B, L]
        Right-padded with 0.
    lengths : int64 Tensor, shape [B]
    crop, mask, reorder : float in [0, 1]
        Share of a history that is kept, masked, reordered.
    mask_id : int
        Item that stands for a masked one.

    Returns
    -------
    list of two (items, lengths), shapes as given
    """
    first = torch.randint(3, lengths.shape, device=items.device)
    second = (first + torch.randint(1, 3, lengths.shape, device=items.device)) % 3
    return [
        view(items, lengths, kind, crop=crop, mask=mask, reorder=reorder, mask_id=mask_id)
        for kind in (first, second)
    ]


def view(
    items: Tensor,
    lengths: Tensor,
    kind: Tensor,
    *,
    crop: float,
    mask: float,
    reorder: float,
    mask_id: int,
) -> tuple[Tensor, Tensor]:
    """Draw one view of each history by the operator that ``kind`` [B] names; parameters as above."""
    place = torch.arange(items.shape[1], device=items.device)
    cropped, masked, moved = ((kind == one)[:, None] for one in (CROP, MASK, REORDER))

    # Cropping and reordering choose a stretch: where it begins is uniform over what fits.
    share = torch.where(kind == CROP, crop, reorder)
    size = (share * lengths).floor().long()
    size = torch.where(kind == CROP, size.clamp(min=1), size)
    start = (torch.rand(lengths.shape, device=items.device) * (lengths - size + 1)).floor().long()
    start, size = start[:, None], size[:, None]
    inside = (place >= start) & (place < start + size)

    draw = torch.rand(items.shape, device=items.device)
    # Inside the stretch the places are drawn anew, and nothing leaves it.
    key = torch.where(moved & inside, start + draw * size, place.double())
    order = torch.where(cropped, (place + start).clamp(max=len(place) - 1), key.argsort(1))
    lengths = torch.where(kind == CROP, size[:, 0], lengths)
    found = items.gather(1, order).masked_fill(place >= lengths[:, None], 0)

    real = place < lengths[:, None]
    rank = draw.masked_fill(~real, 2.0).argsort(1).argsort(1)
    hidden = masked & (rank < (mask * lengths).floor()[:, None])
    return found.masked_fill(hidden, mask_id), lengths
