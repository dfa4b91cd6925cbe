from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import reference
from recbole_ra.regeneration.network import Latents, PairLoss, Regenerator

N_ITEMS = 9
Pair = tuple[list[int], list[int]]


def regenerator(seed: int = 0, **options: Any) -> Regenerator:
    torch.manual_seed(seed)
    small = {"width": 8, "inner": 16, "n_latents": 3, "max_source": 12, "max_target": 8}
    return Regenerator(**{"n_items": N_ITEMS, "initializer_range": 0.5, **small, **options}).double().eval()


def padded(rows: list[list[int]], more: int = 0) -> Tensor:
    width = max(map(len, rows)) + more
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def group(pairs: list[Pair], more: int = 0) -> tuple[Tensor, Tensor]:
    return padded([source for source, _ in pairs], more), padded([pattern for _, pattern in pairs], more)


@st.composite
def some_pairs(draw: st.DrawFn) -> list[Pair]:
    """Sources with repeated items, and sub-sequences of them."""
    pairs = []
    for source in draw(st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=9), min_size=1, max_size=5)):
        kept = draw(st.lists(st.booleans(), min_size=len(source), max_size=len(source)))
        pattern = [item for item, keep in zip(source, kept, strict=True) if keep][:5]
        pairs.append((source, pattern or source[:1]))
    return pairs


def total(loss: PairLoss) -> Tensor:
    return loss.reconstruction / loss.n_tokens + loss.entropy / loss.n_rows


PAIRS: list[Pair] = [
    ([3, 1, 4, 1, 5], [3, 4, 5]),
    ([2, 7], [2, 7]),
    ([8, 8, 6], [8]),
    ([1, 2, 3, 4, 5, 6, 7, 8], [1, 8]),
]


@given(some_pairs(), st.integers(0, 3), st.booleans(), st.sampled_from(["source", "catalogue"]))
def test_loss_equals_all_logits_without_those_that_are_no_candidates(
    pairs: list[Pair], seed: int, diversity: bool, candidates: str
) -> None:
    model = regenerator(seed, diversity=diversity, candidates=candidates)
    found = model.loss([group(pairs)], tau=0.7)
    expected = [reference.pair_loss(model, source, pattern, 0.7) for source, pattern in pairs]
    torch.testing.assert_close(found.reconstruction, torch.stack([loss for loss, _ in expected]).sum())
    torch.testing.assert_close(found.entropy, torch.stack([entropy for _, entropy in expected]).sum())
    assert found.n_tokens == sum(len(pattern) + 1 for _, pattern in pairs)
    assert found.n_rows == len(pairs)


@pytest.mark.parametrize("candidates", ["source", "catalogue"])
@pytest.mark.parametrize("diversity", [True, False])
def test_groups_and_padding_change_neither_loss_nor_gradient(diversity: bool, candidates: str) -> None:
    model = regenerator(diversity=diversity, candidates=candidates)

    def result(groups: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        loss = total(model.loss(groups, tau=0.5))
        parameters = [p for p in model.parameters() if p.requires_grad]
        return [loss, *torch.autograd.grad(loss, parameters)]

    whole = result([group(PAIRS)])
    cuts = [
        [group(PAIRS[:1]), group(PAIRS[1:])],
        [group([pair]) for pair in PAIRS],
        [group(PAIRS, more=2)],
    ]
    for groups in cuts:
        for one, other in zip(result(groups), whole, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_encoder_is_masked_in_the_loss_and_not_in_decoding(causal: bool) -> None:
    model = regenerator(causal_encoder=causal, diversity=False)
    source, pattern = PAIRS[0]
    expected = reference.pair_loss(model, source, pattern, 1.0)[0]
    torch.testing.assert_close(model.loss([group([(source, pattern)])], 1.0).reconstruction, expected)
    memory = model.memories(padded([source]))[0, 0]
    torch.testing.assert_close(memory, reference.latent_memories(model, source, causal=False)[0])
    assert not torch.allclose(memory, reference.latent_memories(model, source, causal=True)[0])


def test_the_encoder_sees_the_future() -> None:
    model = regenerator()
    one, other = model.memories(torch.tensor([[1, 2, 3], [1, 2, 4]]))
    assert not torch.isclose(one[:, :2], other[:, :2]).all(-1).any()


@given(some_pairs(), st.integers(0, 3))
def test_memories_equal_one_source_at_a_time(pairs: list[Pair], seed: int) -> None:
    model = regenerator(seed)
    sources = [source for source, _ in pairs]
    found = model.memories(padded(sources, more=1))
    assert found.shape[:2] == (len(pairs), 3)
    for row, source in zip(found, sources, strict=True):
        torch.testing.assert_close(
            row[:, : len(source)], torch.stack(reference.latent_memories(model, source))
        )


def test_mixing_equals_the_weighted_sum_of_the_latent_memories() -> None:
    torch.manual_seed(0)
    latents = Latents(4, 3).double()
    torch.nn.init.normal_(latents.bias)
    memory, choice = torch.randn(5, 4).double(), torch.rand(2, 3).double()
    row = torch.tensor([0, 0, 1, 1, 1])
    expected = (latents(memory) * choice[row][:, :, None]).sum(1)
    torch.testing.assert_close(latents.mix(memory, choice, row), expected)


def choices(model: Regenerator, tau: float, pairs: list[Pair] = PAIRS) -> Tensor:
    """The weights of the latent spaces that a loss used, [B, P]."""
    seen: list[Tensor] = []
    assert model.promoter is not None
    handle = model.promoter.register_forward_hook(lambda *call: seen.append(call[2].exp()))
    model.loss([group(pairs)], tau)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("training", [False, True])
def test_choices_sum_to_one_and_sharpen(training: bool) -> None:
    model = regenerator(dropout=0.0).train(training)
    largest = []
    for tau in (1.0, 0.3, 0.1, 0.01):
        torch.manual_seed(1)  # the same noise
        choice = choices(model, tau)
        torch.testing.assert_close(choice.sum(1), torch.ones(len(PAIRS), dtype=choice.dtype))
        torch.manual_seed(1)
        torch.testing.assert_close(model.loss([group(PAIRS)], tau).usage, choice.sum(0))
        largest.append(choice.amax(1))
    for wide, narrow in itertools.pairwise(largest):
        assert (narrow >= wide).all()
    assert (largest[-1] > 0.95).all()


def test_noise_follows_torchs_generator_and_training_mode() -> None:
    model = regenerator(dropout=0.0)
    assert torch.equal(choices(model, 1.0), choices(model, 1.0))
    model.train()
    state = torch.get_rng_state()
    first, second = choices(model, 1.0), choices(model, 1.0)
    assert not torch.allclose(first, second)
    torch.set_rng_state(state)
    assert torch.equal(choices(model, 1.0), first)


def test_noise_is_gumbel() -> None:
    # With Gumbel noise, and only with it, the largest logit is drawn with the softmax's probability.
    model = regenerator(dropout=0.0)
    many = PAIRS[:1] * 4000
    (expected,) = choices(model, 1.0, PAIRS[:1])
    model.train()
    torch.manual_seed(0)
    share = choices(model, 1.0, many).argmax(1).bincount(minlength=3).double() / len(many)
    torch.testing.assert_close(share, expected, rtol=0, atol=0.03)


def test_the_promoter_can_lower_the_entropy() -> None:
    model = regenerator()
    before = model.loss([group(PAIRS)], 1.0)
    (before.entropy / before.n_rows).backward()
    assert model.promoter is not None
    with torch.no_grad():
        for parameter in model.promoter.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
    assert model.loss([group(PAIRS)], 1.0).entropy < before.entropy


def test_without_diversity_there_is_neither_promoter_nor_latent_space() -> None:
    model = regenerator(diversity=False)
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert {"promoter", "latents"} <= {name.split(".")[0] for name, _ in regenerator().named_parameters()}
    assert not {"promoter", "latents"} & names
    assert model.n_latents == 1
    loss = model.loss([group(PAIRS)], 1.0)
    assert loss.entropy == 0
    assert loss.usage.tolist() == [len(PAIRS)]


def test_one_item_table_is_shared() -> None:
    model = regenerator()
    tables = [name for name, p in model.named_parameters() if p.shape[0] == N_ITEMS + 2]
    assert tables == ["items.weight"]
    assert (model.begin, model.end) == (N_ITEMS, N_ITEMS + 1)
    trained = torch.randn(N_ITEMS, 8).double()
    symbols = model.item_table[N_ITEMS:].clone()
    model.load_items(trained)
    assert torch.equal(model.item_table[:N_ITEMS], trained)
    assert torch.equal(model.item_table[N_ITEMS:], symbols)
    with pytest.raises(RuntimeError, match="must match"):
        model.load_items(torch.zeros(10, 8))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([1] * 13, [1]), "13 tokens in a row, but the model has 12 positions"),
        (([1, 2], [1, 2] * 4), "9 tokens in a row, but the model has 8 positions"),
    ],
)
def test_rows_beyond_the_position_tables(pair: Pair, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regenerator().loss([group([pair])], 1.0)


def test_everything_learns_and_padding_does_not() -> None:
    model = regenerator(dropout=0.3).train()
    total(model.loss([group(PAIRS[:2]), group(PAIRS[2:])], 1.0)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A key's bias shifts all scores of a query alike.
        assert ".key.bias" in name or parameter.grad.abs().sum() > 0, name
    assert model.items.weight.grad is not None
    assert (model.items.weight.grad[0] == 0).all()
