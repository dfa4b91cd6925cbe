from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import reference
from recbole_ra.regeneration.packed_attention import AttentionMask, PackedAttention, Packing, _Attend, hide

LENGTHS = [1, 2, 2, 3, 5, 7]
TARGETS = [3, 1, 4, 2, 2, 1]
ROWS = torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([[1, 2, 3, 4]])


def attention(n_heads: int = 2, width: int = 8, dropout: float = 0.5) -> PackedAttention:
    torch.manual_seed(0)
    return PackedAttention(width, dropout, n_heads).double().eval()


def packing(lengths: list[int], cuts: list[int]) -> Packing:
    """Rows in groups that end at the cuts, each padded to its longest."""
    groups = []
    for a, b in zip([0, *cuts], [*cuts, len(lengths)], strict=True):
        width = max(lengths[a:b])
        groups.append(torch.tensor([[1] * n + [0] * (width - n) for n in lengths[a:b]]))
    return Packing(groups)


def tokens(packed: Packing, seed: int = 1, width: int = 8) -> Tensor:
    return torch.randn(len(packed), width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def test_masks_hide_padding_and_the_future() -> None:
    packed = Packing(ROWS)
    open_bias = [(bias == 0) for bias in AttentionMask(packed, packed, torch.float32, n_heads=1).bias]
    assert open_bias[0][:, :, 0].tolist() == [[True, True, False], [True, False, False]]
    assert open_bias[1].all()
    causal = [
        (bias == 0) for bias in AttentionMask(packed, packed, torch.float32, causal=True, n_heads=1).bias
    ]
    # Keys before queries: key 1 of the first row is seen from query 1 on.
    assert causal[0][0].tolist() == [[True, True, True], [False, True, True], [False, False, False]]
    assert torch.equal(causal[1][0], torch.ones(4, 4, dtype=torch.bool).triu())


def test_mask_of_queries_in_one_group() -> None:
    queries, keys = Packing([torch.tensor([[1, 2], [1, 0], [1, 2]])]), Packing(ROWS)
    assert AttentionMask(queries, keys, torch.float32).shapes == [(4, 2, 3), (2, 2, 4)]


def test_what_is_hidden_gets_no_weight_and_all_hidden_is_even() -> None:
    scores = torch.tensor([[100.0, -100.0], [3.0, 2.0]])
    weights = (scores + hide(torch.tensor([[True, False], [True, True]]), torch.float32)).softmax(1)
    assert weights.tolist() == [[0, 1], [0.5, 0.5]]


@pytest.mark.parametrize("cuts", [[], [3], [1, 4, 5]])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_each_row_attends_itself(n_heads: int, causal: bool, cuts: list[int]) -> None:
    model, packed = attention(n_heads), packing(LENGTHS, cuts)
    x = tokens(packed)
    found = model(x, x, AttentionMask(packed, packed, x.dtype, causal=causal, n_heads=n_heads))
    rows = [reference.attend(model, part, part, causal=causal) for part in x.split(LENGTHS)]
    torch.testing.assert_close(found, torch.cat(rows))


@pytest.mark.parametrize("cuts", [[], [3], [1, 4, 5]])
def test_each_row_attends_its_own_memory(cuts: list[int]) -> None:
    model, queries, keys = attention(), packing(TARGETS, []), packing(LENGTHS, cuts)
    x, memory = tokens(queries), tokens(keys, 2)
    found = model(x, memory, AttentionMask(queries, keys, x.dtype))
    pairs = zip(x.split(TARGETS), memory.split(LENGTHS), strict=True)
    torch.testing.assert_close(found, torch.cat([reference.attend(model, a, b) for a, b in pairs]))


def test_the_plain_attention_is_that_of_torch() -> None:
    model, x = attention(), tokens(packing([5], []))
    theirs = torch.nn.MultiheadAttention(8, 2, dtype=torch.float64)
    for part in (model.query, model.key, model.value, model.out):
        torch.nn.init.normal_(part.bias)
    projections = model.query, model.key, model.value
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([part.weight for part in projections]),
            "in_proj_bias": torch.cat([part.bias for part in projections]),
            "out_proj.weight": model.out.weight,
            "out_proj.bias": model.out.bias,
        }
    )
    torch.testing.assert_close(reference.attend(model, x, x), model.norm(x + theirs(x, x, x)[0]))


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("causal", [False, True])
def test_gradient(causal: bool, p: float) -> None:
    queries, keys = packing([2, 1, 3], []), packing([2, 1, 3], [1])
    mask = AttentionMask(queries, keys, torch.float64, causal=causal)
    inputs = [
        tokens(part, seed, 4).view(-1, 2).requires_grad_() for seed, part in enumerate([queries, keys, keys])
    ]

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same dropout at every call
        return _Attend.apply(q, k, v, mask, p)

    assert torch.autograd.gradcheck(function, inputs)


def test_second_derivative_is_refused() -> None:
    model, packed = attention(), packing([2], [])
    x = tokens(packed).requires_grad_()
    y = model(x, x, AttentionMask(packed, packed, x.dtype))
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_one_query_equals_the_last_of_a_causal_row() -> None:
    model, packed = attention(), packing([5, 5, 5], [])
    x = tokens(packed)
    whole = model(x, x, AttentionMask(packed, packed, x.dtype, causal=True)).view(3, 5, 8)
    rows = x.view(3, 5, 8)
    keys, values = model.project(rows.transpose(0, 1))
    torch.testing.assert_close(model.one_query(rows[:, 4], keys, values), whole[:, 4])


def test_dropout_acts_in_training_only() -> None:
    model, packed = attention(), packing(LENGTHS, [3])
    x, mask = tokens(packed), AttentionMask(packed, packed, torch.float64)
    assert torch.equal(model(x, x, mask), model(x, x, mask))
    model.train()
    assert not torch.equal(model(x, x, mask), model(x, x, mask))


def test_dropout_of_weights_keeps_their_mean() -> None:
    packed = packing(LENGTHS, [3])
    x = tokens(packed).view(-1, 4)
    mask = AttentionMask(packed, packed, torch.float64)
    torch.manual_seed(0)
    mean = torch.stack([_Attend.apply(x, x, x, mask, 0.5) for _ in range(3000)]).mean(0)
    torch.testing.assert_close(mean, _Attend.apply(x, x, x, mask, 0.0), rtol=0, atol=0.15)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 8 is not divisible by n_heads 3"):
        attention(n_heads=3)
