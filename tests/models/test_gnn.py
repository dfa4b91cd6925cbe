"""The graph of items and the propagation over it, against the arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_ra.core.errors import DataError
from recbole_ra.data.table import Origin, SequenceTable
from recbole_ra.models.gnn import GNN, GNNSettings


def adjacency(sequences: list[list[int]], n_items: int, window: int) -> torch.Tensor:
    counts = torch.zeros(n_items, n_items)
    for sequence in sequences:
        for place, item in enumerate(sequence):
            for distance in range(1, window + 1):
                if place + distance < len(sequence):
                    other = sequence[place + distance]
                    counts[item, other] += 1 / distance
                    counts[other, item] += 1 / distance
    degree = counts.sum(1)
    scale = torch.where(degree > 0, degree, 1).rsqrt()
    return scale[:, None] * counts * scale


@pytest.mark.parametrize("window", [1, 2, 9])
def test_vectors_are_propagated(window: int) -> None:
    sequences = [[1, 2, 3, 2], [4], [3, 1, 1], [5, 2]]
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    torch.manual_seed(0)
    model = GNN(8, 5, GNNSettings(hidden_size=4, gnn_layers=2, gnn_window=window))
    model.see(SequenceTable.from_arrays(np.concatenate(sequences), offsets, 8))
    own, joined = model.item_embedding.weight, adjacency(sequences, 8, window)
    expected = (own + joined @ own + joined @ joined @ own) / 3
    torch.testing.assert_close(model.item_table, expected)
    with torch.no_grad():
        torch.testing.assert_close(model.item_table, expected)
        own.mul_(2)  # what was known is known no more
        torch.testing.assert_close(model.item_table, 2 * expected)
    model.item_table.sum().backward()
    assert own.grad is not None
    assert own.grad.abs().sum() > 0


def test_mixed_precision_leaves_the_propagation_alone() -> None:
    """Its gradient is asked for outside; sparse products of half precision do not exist everywhere."""
    model = GNN(8, 5, GNNSettings(hidden_size=4, gnn_layers=2))
    model.see(SequenceTable.from_arrays(np.array([1, 2, 3, 2, 4]), np.array([0, 3, 5]), 8))
    expected = model.item_table.detach()
    with torch.autocast("cpu", torch.bfloat16):
        table = model.item_table
    table.sum().backward()
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, expected)


@pytest.mark.parametrize(
    ("origins", "rows"),
    [
        ("original+pattern+regenerated", [0, 1, 2, 3]),
        ("original", [0, 2]),
        ("pattern+regenerated", [1, 3]),
        ("Pattern", [1]),
    ],
)
def test_the_graph_is_of_the_origins_asked_for(origins: str, rows: list[int]) -> None:
    sequences = [[1, 2, 3], [3, 4], [2, 5, 1, 4], [6, 1, 2]]
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    origin = np.array([Origin.ORIGINAL, Origin.PATTERN, Origin.ORIGINAL, Origin.REGENERATED])
    model = GNN(8, 5, GNNSettings(hidden_size=4, gnn_layers=1, graph_origins=origins))
    model.see(SequenceTable.from_arrays(np.concatenate(sequences), offsets, 8, origin=origin))
    own, joined = model.item_embedding.weight, adjacency([sequences[row] for row in rows], 8, 2)
    torch.testing.assert_close(model.item_table, (own + joined @ own) / 2)


def test_a_graph_of_no_row_is_refused() -> None:
    model = GNN(8, 5, GNNSettings(hidden_size=4, graph_origins="pattern+regenerated"))
    with pytest.raises(
        DataError, match=r"graph_origins='pattern\+regenerated': no row of that origin trains"
    ):
        model.see(SequenceTable.from_arrays(np.array([1, 2, 3]), np.array([0, 3]), 8))


def test_the_graph_is_part_of_a_checkpoint() -> None:
    model, other = (GNN(6, 5, GNNSettings(hidden_size=4)) for _ in range(2))
    model.see(SequenceTable.from_arrays(np.array([1, 2, 3, 5, 4]), np.array([0, 5]), 6))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.item_table, model.item_table)
