"""Filters over time are products in the frequency domain of the history padded to its full width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_ra.models.filters import FrequencyRescaler, LearnedFilter, convolve, inverse_transform


def world(max_length: int, length: int, width: int = 3) -> tuple[Tensor, Tensor]:
    """States of three histories, and where they have items."""
    generator = torch.Generator().manual_seed(max_length + length)
    x = torch.randn(3, length, width, generator=generator)
    lengths = torch.tensor([1, max(1, length // 2), length])
    return x, (torch.arange(length) < lengths[:, None])[..., None]


@pytest.mark.parametrize(("max_length", "length"), [(1, 1), (6, 6), (7, 7), (8, 3), (9, 5)])
def test_a_learned_filter_is_a_product_of_spectra(max_length: int, length: int) -> None:
    x, there = world(max_length, length)
    model = LearnedFilter(max_length=max_length, width=3, dropout=0.5, eps=1e-12).eval()
    torch.nn.init.normal_(model.real)
    torch.nn.init.normal_(model.imaginary)
    spectrum = torch.fft.rfft(x * there, n=max_length, dim=1)
    filtered = torch.fft.irfft(spectrum * torch.complex(model.real, model.imaginary), n=max_length, dim=1)
    expected = model.norm(x + filtered[:, :length])
    torch.testing.assert_close(model(x, there), expected, rtol=1e-4, atol=1e-5)
    at = torch.tensor([[0, length - 1], [length - 1, 0], [length // 2, 0]])
    asked = expected.gather(1, at[..., None].expand(-1, -1, 3))
    torch.testing.assert_close(model(x, there, at), asked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("max_length", "length"), [(1, 1), (6, 6), (7, 5), (9, 9)])
@pytest.mark.parametrize("kept", [1, 3, 9])
def test_low_frequencies_stay_and_high_ones_are_scaled(max_length: int, length: int, kept: int) -> None:
    x, there = world(max_length, length)
    model = FrequencyRescaler(max_length=max_length, width=3, kept=kept, dropout=0.5, eps=1e-12).eval()
    spectrum = torch.fft.rfft(x * there, n=max_length, dim=1)
    spectrum[:, kept:] = 0
    low = torch.fft.irfft(spectrum, n=max_length, dim=1)[:, :length]
    expected = model.norm(x + low + model.sqrt_beta**2 * (x - low))
    torch.testing.assert_close(model(x, there), expected, rtol=1e-4, atol=1e-5)
    at = torch.full((3, 1), length - 1)
    torch.testing.assert_close(model(x, there, at), expected[:, -1:], rtol=1e-4, atol=1e-5)


def test_the_side_of_the_padding_does_not_matter() -> None:
    """So a history that is padded on the right is filtered as the authors filter it, padded on the left."""
    generator = torch.Generator().manual_seed(0)
    kernel, x = torch.randn(9, 3, generator=generator), torch.randn(1, 4, 3, generator=generator)
    left = torch.cat([torch.zeros(1, 5, 3), x], 1)
    torch.testing.assert_close(convolve(kernel, left, None)[:, 5:], convolve(kernel, x, None))


@pytest.mark.parametrize("max_length", [1, 2, 7, 8])
def test_the_inverse_transform_is_that_of_torch(max_length: int) -> None:
    spectrum = torch.fft.rfft(torch.randn(max_length, generator=torch.Generator().manual_seed(1)))
    cosines, sines = inverse_transform(max_length)
    found = spectrum.real @ cosines - spectrum.imag @ sines
    torch.testing.assert_close(found, torch.fft.irfft(spectrum, n=max_length), rtol=1e-4, atol=1e-5)
