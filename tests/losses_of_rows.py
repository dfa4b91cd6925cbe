"""A few rows to compare with a small item table, and how the tests compare losses of them."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_ra.models.history import ItemOffsets


def inputs(
    rows: int, items: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + items)
    states = torch.randn(rows, width, generator=generator, dtype=dtype).requires_grad_()
    table = torch.randn(items, width, generator=generator, dtype=dtype).requires_grad_()
    return states, table, torch.randint(0, items, (rows,), generator=generator)


def gradients(loss: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(3 * loss, parts)  # 3: the incoming gradient takes part


def assert_same(one: Tensor, other: Tensor, *parts: Tensor) -> None:
    torch.testing.assert_close(one, other)
    for a, b in zip(gradients(one, *parts), gradients(other, *parts), strict=True):
        torch.testing.assert_close(a, b)


def naive_info_nce(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """One row after another: its own partner against everything else but itself."""
    views, n = torch.cat([one, other]), len(one)
    total = one.new_zeros(())
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        scores = {j: views[i] @ views[j] / temperature for j in range(2 * n) if j != i}
        total = total - scores[partner] + torch.stack(list(scores.values())).logsumexp(0)
    return total / (2 * n)


def some_offsets(rows: int, items: int) -> ItemOffsets:
    """Two items of each row, the first of them often the target; the second row has one."""
    _, _, targets = inputs(rows, items, 4)
    chosen = torch.stack([targets, (targets + 3) % items], 1)
    chosen[1, 1] = 0
    values = torch.randn(rows, 2, dtype=torch.float64) * (chosen != 0)
    return ItemOffsets(chosen, values.requires_grad_())
