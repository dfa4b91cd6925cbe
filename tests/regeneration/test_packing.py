from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from recbole_ra.regeneration.packing import AttentionMask, Packing, hide

ROWS = torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([[1, 2, 3, 4]])


@st.composite
def some_groups(draw: st.DrawFn) -> list[Tensor]:
    """Right-padded groups, some rows empty."""
    groups = []
    for _ in range(draw(st.integers(1, 3))):
        width = draw(st.integers(1, 5))
        lengths = draw(st.lists(st.integers(0, width), min_size=1, max_size=4))
        groups.append(torch.tensor([[3] * length + [0] * (width - length) for length in lengths]))
    return groups


def test_known_answer() -> None:
    packed = Packing(ROWS)
    assert packed.tokens.tolist() == [5, 6, 7, 1, 2, 3, 4]
    assert packed.row.tolist() == [0, 0, 1, 2, 2, 2, 2]
    assert packed.position.tolist() == [0, 1, 0, 0, 1, 2, 3]
    assert packed.lengths.tolist() == [2, 1, 4]
    assert packed.counts == [2, 1]
    assert len(packed) == 7
    first, second = packed.pad(packed.tokens[:, None])
    assert first[0, :2, 0].tolist() == [5, 6]
    assert first[1, :1, 0].tolist() == [7]
    assert second[0, :, 0].tolist() == [1, 2, 3, 4]


@given(some_groups())
def test_packing_undoes_padding(groups: list[Tensor]) -> None:
    packed = Packing(groups)
    assume(len(packed))
    x = torch.randn(len(packed), 2)
    assert torch.equal(packed.pack(packed.pad(x)), x)
    assert torch.equal(packed.pack([group[..., None] for group in groups])[:, 0], packed.tokens)


@given(some_groups(), st.integers(1, 3))
def test_rows_by_head_are_the_padded_rows_with_heads_before_places(
    groups: list[Tensor], n_heads: int
) -> None:
    packed = Packing(groups)
    assume(len(packed))
    x = torch.randn(len(packed), n_heads * 2)
    rows, back = packed.by_head(n_heads)
    by_head = x.view(-1, 2)[rows]
    expected = [part.unflatten(2, (n_heads, 2)).transpose(1, 2).reshape(-1, 2) for part in packed.pad(x)]
    assert torch.equal(by_head, torch.cat(expected))
    assert torch.equal(by_head[back], x.view(-1, 2))


def test_reach_hides_padding_and_the_future() -> None:
    packed = Packing(ROWS)
    open_bias = [(bias == 0) for bias in AttentionMask(packed, packed, 1, torch.float32).bias]
    assert open_bias[0][:, :, 0].tolist() == [[True, True, False], [True, False, False]]
    assert open_bias[1].all()
    causal = [(bias == 0) for bias in AttentionMask(packed, packed, 1, torch.float32, causal=True).bias]
    # Keys before queries: key 1 of the first row is seen from query 1 on.
    assert causal[0][0].tolist() == [[True, True, True], [False, True, True], [False, False, False]]
    assert torch.equal(causal[1][0], torch.ones(4, 4, dtype=torch.bool).triu())


def test_reach_from_queries_in_one_group() -> None:
    queries, keys = Packing([torch.tensor([[1, 2], [1, 0], [1, 2]])]), Packing(ROWS)
    assert AttentionMask(queries, keys, 2, torch.float32).shapes == [(4, 2, 3), (2, 2, 4)]


def test_what_is_hidden_gets_no_weight_and_all_hidden_is_even() -> None:
    scores = torch.tensor([[100.0, -100.0], [3.0, 2.0]])
    weights = (scores + hide(torch.tensor([[True, False], [True, True]]), torch.float32)).softmax(1)
    assert weights.tolist() == [[0, 1], [0.5, 0.5]]
