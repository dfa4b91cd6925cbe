from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_ra.models.transformer import LAYOUTS, SelfAttention, TransformerEncoder


def encoder(
    n_layers: int = 2, width: int = 8, n_heads: int = 2, layout: str = "recbole"
) -> TransformerEncoder:
    torch.manual_seed(0)
    made = TransformerEncoder(
        n_layers=n_layers,
        width=width,
        n_heads=n_heads,
        inner=16,
        dropout=0.5,
        attn_dropout=0.5,
        eps=1e-12,
        layout=layout,
    )
    return made.double().eval()


def sequences(rows: int = 3, length: int = 7, width: int = 8) -> Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_later_positions_change_no_earlier_state(n_layers: int, layout: str) -> None:
    model, x = encoder(n_layers, layout=layout), sequences()
    states = model(x)
    for cut in range(x.shape[1]):
        changed = x.clone()
        changed[:, cut:] = 100 * torch.randn_like(changed[:, cut:])
        torch.testing.assert_close(model(changed)[:, :cut], states[:, :cut], rtol=0, atol=1e-12)
        assert not torch.allclose(model(changed)[:, cut:], states[:, cut:])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_states_at_places_equal_the_full_pass(n_layers: int, layout: str) -> None:
    model, x = encoder(n_layers, layout=layout), sequences()
    at = torch.tensor([[0, 6, 3, 3], [1, 1, 2, 0], [6, 5, 4, 0]])
    expected = model(x).gather(1, at[:, :, None].expand(-1, -1, 8))
    torch.testing.assert_close(model(x, at), expected, rtol=0, atol=1e-12)


def test_gradients_at_places_equal_the_full_pass() -> None:
    model, x = encoder(), sequences().requires_grad_()
    at = torch.tensor([[0, 6], [1, 1], [6, 5]])
    parts = [x, *model.parameters()]
    one = torch.autograd.grad(model(x, at).square().sum(), parts)
    other = torch.autograd.grad(model(x).gather(1, at[:, :, None].expand(-1, -1, 8)).square().sum(), parts)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_self_attention_is_that_of_torch(n_heads: int) -> None:
    ours = SelfAttention(width=8, n_heads=n_heads, dropout=0.5, attn_dropout=0.5, eps=1e-12).double().eval()
    theirs = torch.nn.MultiheadAttention(8, n_heads, batch_first=True, dtype=torch.float64)
    torch.nn.init.normal_(ours.qkv.bias)
    torch.nn.init.normal_(ours.out.bias)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = sequences()
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    mixed, _ = theirs(x, x, x, attn_mask=future)
    torch.testing.assert_close(ours(x), ours.norm(x + mixed))


def test_dropout_acts_in_training_only() -> None:
    model, x = encoder(), sequences()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 8 is not divisible by n_heads 3"):
        encoder(n_heads=3)


def test_the_published_block_is_that_of_the_paper() -> None:
    """Equation by equation: queries of normalised states, keys and values of the states themselves."""
    model, x = encoder(1, n_heads=1, layout="published"), sequences(rows=2, length=5)
    attention, feed_forward = model.attentions[0], model.feed_forwards[0]
    wq, wk, wv = attention.qkv.weight.chunk(3)
    bq, bk, bv = attention.qkv.bias.chunk(3)
    q, k, v = attention.norm(x) @ wq.T + bq, x @ wk.T + bk, x @ wv.T + bv
    scores = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    y = x + attention.out(scores.softmax(-1) @ v)
    z = feed_forward.norm(y)
    z = z + feed_forward.outer(torch.relu(feed_forward.inner(z)))
    torch.testing.assert_close(model(x), model.norm(z), rtol=0, atol=1e-12)
