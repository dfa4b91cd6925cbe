from __future__ import annotations

import pytest
import torch
from torch import Tensor

import reference
from recbole_ra.regeneration.encoder_decoder import Decoder, Encoder
from recbole_ra.regeneration.packed_attention import AttentionMask, Packing

MEMORIES = [3, 1, 4]
STEPS = 5


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_of(lengths: list[int]) -> Tensor:
    return torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])


def decoder(n_layers: int) -> Decoder:
    torch.manual_seed(0)
    return Decoder(n_layers, width=8, inner=16, dropout=0.5).double().eval()


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_encoder_equals_one_row_at_a_time(n_layers: int) -> None:
    torch.manual_seed(0)
    model = Encoder(n_layers, width=8, inner=16, dropout=0.5).double().eval()
    packed = Packing([rows_of(MEMORIES)])
    x = draw(len(packed), 8)
    for causal in (False, True):
        found = model(x, AttentionMask(packed, packed, x.dtype, causal=causal))
        rows = [reference.encode(model, part, causal=causal) for part in x.split(MEMORIES)]
        torch.testing.assert_close(found, torch.cat(rows))


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_steps_with_a_cache_equal_the_whole_pass(n_layers: int) -> None:
    model, source, target = decoder(n_layers), Packing([rows_of(MEMORIES)]), Packing([rows_of([STEPS] * 3)])
    memory, x = draw(len(source), 8), draw(3, STEPS, 8, seed=2)
    own = AttentionMask(target, target, x.dtype, causal=True)
    whole = model(x.flatten(0, 1), memory, own, AttentionMask(target, source, x.dtype)).view(3, STEPS, 8)
    cache = model.start(source.pad(memory)[0], rows_of(MEMORIES) == 0, STEPS)
    for step in range(STEPS):
        torch.testing.assert_close(model.step(x[:, step], cache), whole[:, step])


def test_a_cache_without_some_rows_goes_on_with_the_others() -> None:
    model, source = decoder(2), Packing([rows_of(MEMORIES)])
    memory, x = source.pad(draw(len(source), 8))[0], draw(3, STEPS, 8, seed=2)
    whole, fewer = (model.start(memory, rows_of(MEMORIES) == 0, STEPS) for _ in range(2))
    kept = torch.tensor([0, 2])
    for step in range(STEPS):
        expected = model.step(x[:, step], whole)[kept]
        if step < 2:
            model.step(x[:, step], fewer)
            continue
        if step == 2:
            fewer.keep(kept)
        torch.testing.assert_close(model.step(x[kept, step], fewer), expected)
    assert fewer.length == STEPS
