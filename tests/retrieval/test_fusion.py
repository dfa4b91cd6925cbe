from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.retrieval import fusion
from recbole_ra.retrieval.fusion import Channel, CrossAttention, Fusion

ROWS, K, WIDTH = 5, 6, 8


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def neighbours() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, keys, values and which neighbours count: row 0 has all, row 1 one, row 2 none."""
    valid = torch.rand(ROWS, K) < 0.6
    valid[0], valid[1], valid[2] = True, False, False
    valid[1, 3] = True
    return (
        torch.randn(ROWS, WIDTH, dtype=torch.float64),
        torch.randn(ROWS, K, WIDTH, dtype=torch.float64),
        torch.randn(ROWS, K, WIDTH, dtype=torch.float64),
        valid,
    )


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.double().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


def attention(temperature: float = 1.0, n_heads: int = 2, dropout: float = 0.5) -> CrossAttention:
    made = CrossAttention(width=WIDTH, n_heads=n_heads, temperature=temperature, dropout=dropout)
    randomised(made)
    return made


def fused(alpha: float = 0.5, beta: float = 0.5) -> Fusion:
    made = Fusion(width=WIDTH, alpha=alpha, beta=beta, n_heads=2, inner=16, temperature=1.0, dropout=0.5)
    randomised(made)
    return made


def naive(
    layer: CrossAttention, temperature: float, query: Tensor, keys: Tensor, values: Tensor, valid: Tensor
) -> Tensor:
    """Row by row and head by head, with every key and value projected."""
    size = WIDTH // layer.n_heads
    out = []
    for row in range(len(query)):
        q = layer.query(query[row])
        k, v = layer.key(keys[row][valid[row]]), layer.value(values[row][valid[row]])
        heads = []
        for head in range(layer.n_heads):
            cut = slice(head * size, (head + 1) * size)
            weights = (k[:, cut] @ q[cut] / math.sqrt(size) / temperature).softmax(0)
            heads.append(weights @ v[:, cut])
        out.append(layer.out(torch.cat(heads)))
    return torch.stack(out)


@pytest.mark.parametrize("n_heads", [1, 2, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_cross_attention_equals_the_loop(n_heads: int, temperature: float) -> None:
    query, keys, values, valid = neighbours()
    valid[2, 0] = True
    layer = attention(temperature, n_heads)
    torch.testing.assert_close(
        layer(query, keys, values, valid), naive(layer, temperature, query, keys, values, valid)
    )


def test_cross_attention_is_that_of_torch() -> None:
    """Also with a bias of the keys, which shifts all scores of a query alike."""
    query, keys, values, valid = neighbours()
    valid[2, 0] = True
    layer = attention()
    theirs = torch.nn.MultiheadAttention(WIDTH, 2, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]),
            "in_proj_bias": torch.cat([layer.query.bias, torch.randn(WIDTH).double(), layer.value.bias]),
            "out_proj.weight": layer.out.weight,
            "out_proj.bias": layer.out.bias,
        }
    )
    expected, _ = theirs(query[:, None], keys, values, key_padding_mask=~valid)
    torch.testing.assert_close(layer(query, keys, values, valid), expected[:, 0])


def test_dropped_weights_drop_projected_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training the value's bias is dropped with the weight that it would have had."""
    query, keys, values, _ = neighbours()
    mask = (torch.rand(ROWS, 2, K) < 0.5).double() * 2
    monkeypatch.setattr(fusion, "dropout", lambda weights, p, training: weights * mask)
    layer = attention()
    found = layer(query, keys, values, torch.ones(ROWS, K, dtype=torch.bool))

    def heads(x: Tensor) -> Tensor:
        return x.view(ROWS, -1, 2, WIDTH // 2).transpose(1, 2)

    q, k, v = heads(layer.query(query)), heads(layer.key(keys)), heads(layer.value(values))
    weights = (q @ k.transpose(2, 3) / math.sqrt(WIDTH // 2)).softmax(-1) * mask[:, :, None]
    expected = layer.out((weights @ v).transpose(1, 2).reshape(ROWS, WIDTH))
    torch.testing.assert_close(found, expected)


def test_a_channel_attends_feeds_forward_and_attends_again() -> None:
    query, keys, values, valid = neighbours()
    valid[2, 0] = True
    layer = Channel(width=WIDTH, n_heads=2, inner=16, temperature=0.5, dropout=0.5)
    randomised(layer)
    x = naive(layer.first, 0.5, query, keys, values, valid)
    x = layer.norm(x + layer.outer(F.gelu(layer.inner(x))))
    torch.testing.assert_close(
        layer(query, keys, values, valid), naive(layer.second, 0.5, x, keys, values, valid)
    )


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_formula(beta: float) -> None:
    state, keys, values, valid = neighbours()
    layer = fused(0.7, beta)
    expected = 0.7 * state
    if layer.by_state is not None:
        expected = expected + 0.3 * beta * layer.by_state(state, keys, values, valid)
    if layer.by_target is not None:
        expected = expected + 0.3 * (1 - beta) * layer.by_target(state, values, keys, valid)
    found = layer(state, keys, values, valid)
    some = valid.any(1)
    torch.testing.assert_close(found[some], expected[some])


@pytest.mark.parametrize(
    ("beta", "by_state", "by_target"), [(0.0, False, True), (0.5, True, True), (1.0, True, False)]
)
def test_a_channel_without_weight_does_not_exist(beta: float, by_state: bool, by_target: bool) -> None:
    layer = fused(beta=beta)
    assert (layer.by_state is not None, layer.by_target is not None) == (by_state, by_target)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_neighbours_that_do_not_count_have_no_influence(beta: float) -> None:
    state, keys, values, valid = neighbours()
    layer = fused(beta=beta)
    found = layer(state, keys, values, valid)
    for rubbish in (0.0, 1e6):
        other = (
            keys.masked_fill(~valid[:, :, None], rubbish),
            values.masked_fill(~valid[:, :, None], rubbish),
        )
        torch.testing.assert_close(layer(state, *other, valid), found)
    keys.requires_grad_()
    (slope,) = torch.autograd.grad(layer(state, keys, values, valid).sum(), keys)
    assert (slope[~valid] == 0).all()
    assert (slope[valid] != 0).any()


def test_the_order_of_neighbours_means_nothing() -> None:
    state, keys, values, valid = neighbours()
    layer, order = fused(), torch.randperm(K)
    torch.testing.assert_close(
        layer(state, keys[:, order], values[:, order], valid[:, order]), layer(state, keys, values, valid)
    )


def test_without_a_neighbour_the_state_stays() -> None:
    state, keys, values, valid = neighbours()
    assert torch.equal(fused(0.2)(state, keys, values, valid)[2], state[2])
    nothing = torch.zeros(ROWS, 0, WIDTH, dtype=torch.float64)
    assert torch.equal(fused(0.2)(state, nothing, nothing, torch.zeros(ROWS, 0, dtype=torch.bool)), state)


def test_without_a_neighbour_gradients_are_finite() -> None:
    state, keys, values, valid = neighbours()
    layer = fused().train()
    layer(state, keys, values, torch.zeros_like(valid)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


def test_alpha_one_is_the_state() -> None:
    state, keys, values, valid = neighbours()
    assert torch.equal(fused(alpha=1.0)(state, keys, values, valid), state)


def test_gradients_reach_every_parameter() -> None:
    state, keys, values, valid = neighbours()
    layer = fused()
    layer(state, keys, values, valid).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 8 is not divisible by n_heads 3"):
        attention(n_heads=3)


def test_what_only_the_memories_know_is_learned() -> None:
    """States say nothing of the target, neighbours' values are its vector; other rows are predicted too."""
    torch.manual_seed(0)
    width, n_items, k = 16, 40, 3
    table = torch.randn(n_items, width)
    module = fusion.Fusion(
        width=width, alpha=0.5, beta=1.0, n_heads=2, inner=32, temperature=1.0, dropout=0.0
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)

    def rows(count: int) -> tuple[Tensor, Tensor]:
        targets = torch.randint(n_items, (count,))
        values = table[targets][:, None].expand(-1, k, -1)
        keys, valid = torch.randn(count, k, width), torch.ones(count, k, dtype=torch.bool)
        return module(0.1 * torch.randn(count, width), keys, values, valid) @ table.T, targets

    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(*rows(128)).backward()
        optimizer.step()
    scores, targets = rows(400)
    assert (scores.argmax(1) == targets).float().mean() > 0.9  # by chance .025


def test_the_surer_side_counts_more() -> None:
    """Known answer: with alpha one half, the weights are as the entropies of the other side."""
    state, keys, values, valid = neighbours()
    made = fused(alpha=0.5)
    made.kind = "entropy"
    sure = {True: torch.tensor([1.0, 2.0, 4.0, 1.0, 1.0]), False: torch.tensor([1.0, 6.0, 1.0, 4.0, 1.0])}
    found = made(state, keys, values, valid, lambda asked: sure[asked is state].to(asked.dtype))
    own = torch.tensor([0.5, 0.75, 1.0, 0.8, 0.5], dtype=state.dtype)[:, None]
    expected = own * state + (1 - own) * made.read(state, keys, values, valid)
    torch.testing.assert_close(found, expected)


def test_attention_is_taught_the_neighbour_that_brought_the_target() -> None:
    state, keys, values, valid = neighbours()
    made = fused().train()
    target = 5 * values[:, 2]
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = made.alignment_loss(state, keys, values, valid, target)
        loss.backward()
        optimizer.step()
    assert made.by_state is not None
    looked = made.by_state.first.scores(state, keys, valid).mean(1).argmax(1)
    wanted = torch.einsum("bkd,bd->bk", values, target).masked_fill(~valid, -torch.inf).argmax(1)
    assert (looked == wanted)[valid.any(1)].all()
