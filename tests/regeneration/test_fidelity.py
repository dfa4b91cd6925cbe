from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recbole_ra.regeneration.decoding import Decoded
from recbole_ra.regeneration.fidelity import keep_agreed, keep_plausible
from recbole_ra.regeneration.network import Regenerator
from tables import lists_of

N_ITEMS = 8
TABLE = torch.randn(N_ITEMS, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def score(items: Tensor, lengths: Tensor) -> Tensor:
    """A recommender that sees order: the latest item counts most, padding nothing."""
    place = torch.arange(items.shape[1])
    weight = torch.where(place < lengths[:, None], 2.0 ** (place - lengths[:, None] + 1), 0.0).double()
    return (TABLE[items] * weight[:, :, None]).sum(1) @ TABLE.T


def one_by_one(row: list[int], rank: int, max_length: int) -> list[int]:
    kept = row[:1]
    for item in row[1:]:
        history = kept[-max_length:]
        scores = score(torch.tensor([history]), torch.tensor([len(history)]))[0]
        if int((scores[1:] > scores[item]).sum()) < rank:
            kept.append(item)
    return kept


def decoded_of(rows: list[list[int]]) -> Decoded:
    return Decoded(
        np.array([item for row in rows for item in row], dtype=np.int32),
        np.cumsum([0, *map(len, rows)]),
        np.arange(len(rows)),
        np.zeros(len(rows), dtype=np.int64),
    )


@given(
    st.lists(st.lists(st.integers(1, N_ITEMS - 1), max_size=6), max_size=7),
    st.integers(1, N_ITEMS),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_equals_the_walk_one_row_at_a_time(
    rows: list[list[int]], rank: int, max_length: int, batch_size: int
) -> None:
    found = keep_plausible(
        decoded_of(rows),
        score,
        rank=rank,
        max_length=max_length,
        batch_size=batch_size,
        device=torch.device("cpu"),
    )
    assert lists_of(found) == [one_by_one(row, rank, max_length) for row in rows]
    if rank == N_ITEMS:
        assert lists_of(found) == rows  # every item is among all of them


def small_regenerator() -> Regenerator:
    torch.manual_seed(1)
    network = Regenerator(n_items=N_ITEMS, max_source=6, max_target=7, width=8, inner=8, n_latents=3).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return network


def test_the_promoter_reads_a_decoded_row_as_it_reads_a_pattern_in_training() -> None:
    network = small_regenerator()
    pattern = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0]])
    with torch.no_grad():
        usage = network.loss([(torch.tensor([[1, 2, 3], [4, 5, 6], [6, 7, 1]]), pattern)], 1.0).usage
        torch.testing.assert_close(network.spaces(pattern).exp().sum(0), usage)


@given(st.lists(st.lists(st.integers(1, N_ITEMS - 1), max_size=5), max_size=7), st.integers(1, 3))
def test_a_row_stays_exactly_if_the_promoter_chooses_its_space(
    rows: list[list[int]], batch_size: int
) -> None:
    network, device = small_regenerator(), torch.device("cpu")
    decoded = decoded_of([row for row in rows for _ in range(3)])
    decoded.latent[:] = np.arange(len(decoded)) % 3
    found = lists_of(keep_agreed(decoded, network, batch_size=batch_size, device=device))
    for number, row in enumerate(rows):
        if row:
            with torch.no_grad():
                space = int(network.spaces(torch.tensor([row])).argmax())
            assert found[3 * number : 3 * number + 3] == [row if p == space else [] for p in range(3)]
        else:
            assert found[3 * number : 3 * number + 3] == [[]] * 3
