"""∞-AE: its kernel is that of a wide network, its scores those of the regression by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import reference
from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.data.dataset import Fields
from recbole_ra.data.table import SequenceTable, offsets_of
from recbole_ra.models import infinite_ae
from recbole_ra.models.infinite_ae import InfiniteAE, tangent_kernel
from recbole_ra.models.registry import backbone_name

FIELDS = Fields("user", "item", "history", "length")
N_ITEMS = 9
ROWS = [[1, 2, 3], [3, 2, 2, 4], [8], [5, 6, 7, 1], [2, 3, 1], [4, 8]]


def solved(ridge: float, rows: list[list[int]] = ROWS) -> InfiniteAE:
    model = InfiniteAE(N_ITEMS, FIELDS)
    offsets = offsets_of(np.array([len(row) for row in rows]))
    model.see(SequenceTable.from_arrays(np.concatenate(rows), offsets, N_ITEMS))
    model.solve(model.kernel(), ridge)
    return model.eval()


def query(*histories: list[int]) -> dict[str, Any]:
    longest = max(map(len, histories))
    rows = [history + [0] * (longest - len(history)) for history in histories]
    return {"history": torch.tensor(rows), "item": torch.tensor([row[0] for row in histories])}


def test_the_kernel_is_that_of_a_wide_network() -> None:
    """The inner products of a random network's gradients, whose mean is the kernel."""
    generator = torch.Generator().manual_seed(0)
    width, n_inputs = 200_000, 12
    x = torch.zeros(3, n_inputs)
    x[0, :3] = x[1, 2:7] = x[2, 8:] = 1
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    inner, bias, outer = (
        draw(width, n_inputs).requires_grad_(),
        draw(width).requires_grad_(),
        draw(width).requires_grad_(),
    )
    last = torch.zeros((), requires_grad=True)
    gradients = []
    for row in x:
        hidden = (math.sqrt(2 / n_inputs) * inner @ row + 0.1 * bias).relu()
        output = math.sqrt(2 / width) * outer @ hidden + 0.1 * last
        found = torch.autograd.grad(output, (inner, bias, outer, last))
        gradients.append(torch.cat([part.flatten() for part in found]))
    wide = torch.stack(gradients)
    size = x.sum(1).double()
    exact = tangent_kernel((x @ x.T).double(), size[:, None], size, n_inputs)
    torch.testing.assert_close((wide @ wide.T).double(), exact, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("ridge", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("cells", [1, 1 << 22])
def test_scores_are_those_of_the_regression(
    ridge: float, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of any size, of queries that are training rows and of others."""
    monkeypatch.setattr(infinite_ae, "CELLS", cells)
    queries = [*ROWS, [1, 2], [7, 4, 3], [6]]
    expected = reference.infinite_ae_scores(
        [set(row) for row in ROWS], [set(row) for row in queries], N_ITEMS, ridge
    )
    model, asked = solved(ridge), query(*queries)
    scores = model.full_sort_predict(asked)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose((model.represent(asked) @ model.item_table.T).numpy(), expected, atol=1e-5)
    torch.testing.assert_close(model.predict(asked), scores.gather(1, asked["item"][:, None])[:, 0])


def test_the_loss_is_the_squared_error_of_the_training_rows() -> None:
    model = solved(1.0)
    used, loss = model.solve(model.kernel(), 5.0)
    marks = model._marks(query(*ROWS))
    error = (model.full_sort_predict(query(*ROWS)) - marks).square().sum(1).mean()
    assert used == 5.0
    assert loss == pytest.approx(error.item(), rel=1e-5)


def test_order_and_repeats_of_a_history_mean_nothing() -> None:
    model = solved(1.0)
    one, other = model.full_sort_predict(query([5, 2, 8], [2, 8, 5, 5]))
    torch.testing.assert_close(one, other)


def test_users_without_training_items_are_no_rows() -> None:
    with_empty = solved(0.5, [[], *ROWS[:2], [], *ROWS[2:], []])
    assert with_empty.n_rows == len(ROWS)
    torch.testing.assert_close(with_empty.dual, solved(0.5).dual)


def test_equal_rows_are_solved_at_the_resolution_of_the_numbers() -> None:
    """[1, 2, 3] stands twice among the rows, so that the kernel alone is singular."""
    model = solved(1.0)
    used, loss = model.solve(model.kernel(), 0.0)
    assert used in (0.0, len(ROWS) * torch.finfo(torch.float32).eps)
    assert loss < 1e-5
    torch.testing.assert_close(
        model.full_sort_predict(query([1, 2, 3]))[0, 1:4], torch.ones(3), rtol=0, atol=1e-3
    )


def test_a_kernel_that_stays_singular_is_named() -> None:
    model = solved(1.0)
    with pytest.raises(RecboleRaError, match="ridge=0: the kernel of 6 rows is singular"):
        model.solve(-model.kernel(), 0.0)


def test_a_checkpoint_brings_its_rows_along() -> None:
    model, other = solved(2.0), InfiniteAE(N_ITEMS, FIELDS)
    other.load_state_dict(model.state_dict())
    asked = query([1, 2, 3], [7, 2])
    assert torch.equal(other.full_sort_predict(asked), model.full_sort_predict(asked))


def test_no_memories_are_fused_into_it() -> None:
    assert backbone_name("InfiniteAE") == "InfiniteAE"
    with pytest.raises(SettingsError, match="model RaInfiniteAE: no memories can be fused into InfiniteAE"):
        backbone_name("RaInfiniteAE")
    with pytest.raises(SettingsError, match="did you mean 'InfiniteAE'"):
        backbone_name("InfinteAE")
