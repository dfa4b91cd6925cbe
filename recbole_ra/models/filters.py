"""Filters over time, as circular convolutions of a history that is padded with zeros to its full width.

A product in the frequency domain is a circular convolution in time, whichever side the padding is on; written
out, it costs no more than the places that a batch has, and only those that are asked for.

Shapes: ``B`` rows, ``L`` places, ``P`` places asked for, ``M`` the longest history, ``D`` width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recbole_ra.models.dropout import Dropout


def inverse_transform(max_length: int) -> tuple[Tensor, Tensor]:
    """Return the matrices [F, M] that turn real and imaginary parts of a real spectrum into a kernel [M].

    ``kernel = real @ cosines - imaginary @ sines``, the inverse of ``torch.fft.rfft`` over ``M`` places.
    """
    frequency = torch.arange(max_length // 2 + 1, dtype=torch.float64)[:, None]
    angle = 2 * math.pi * frequency * torch.arange(max_length, dtype=torch.float64) / max_length
    twice = torch.where((frequency == 0) | (2 * frequency == max_length), 1.0, 2.0) / max_length
    return (twice * angle.cos()).float(), (twice * angle.sin()).float()


def convolve(kernel: Tensor, x: Tensor, at: Tensor | None) -> Tensor:
    """Convolve circularly over ``M`` places: kernel [M] or [M, D], [B, L, D] -> [B, L, D] or [B, P, D].

    ``at`` [B, P] names the places that are asked for. Places without an item must be zero.
    """
    length = x.shape[1]
    places = torch.arange(length, device=x.device)
    asked = places if at is None else at
    weights = kernel[(asked[..., None] - places) % len(kernel)]  # [L, L] or [B, P, L], or these and [D]
    if kernel.ndim == 1:
        return weights @ x
    return torch.einsum("tsd,bsd->btd" if at is None else "bpsd,bsd->bpd", weights, x)


def places_at(x: Tensor, at: Tensor | None) -> Tensor:
    """[B, L, D] at the places ``at`` [B, P]: [B, P, D]; everywhere where None."""
    return x if at is None else x.gather(1, at[:, :, None].expand(-1, -1, x.shape[2]))


class LearnedFilter(nn.Module):
    """A learned complex weight for each frequency and channel (FMLP-Rec), dropout, residual and LayerNorm."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, *, max_length: int, width: int, dropout: float, eps: float) -> None:
        super().__init__()
        cosines, sines = inverse_transform(max_length)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self.real = nn.Parameter(0.02 * torch.randn(len(cosines), width))
        self.imaginary = nn.Parameter(0.02 * torch.randn(len(cosines), width))
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, there: Tensor, at: Tensor | None = None) -> Tensor:
        """[B, L, D], bool [B, L, 1] where items stand, [B, P] -> [B, L, D] or [B, P, D]."""
        kernel = self.cosines.T @ self.real - self.sines.T @ self.imaginary  # [M, D]
        return self.norm(places_at(x, at) + self.dropout(convolve(kernel, x * there, at)))


class FrequencyRescaler(nn.Module):
    """Low frequencies as they are, high ones times a learned square (BSARec), then as above."""

    kernel: Tensor

    def __init__(self, *, max_length: int, width: int, kept: int, dropout: float, eps: float) -> None:
        super().__init__()
        cosines, _ = inverse_transform(max_length)
        self.register_buffer("kernel", cosines[:kept].sum(0), persistent=False)
        self.sqrt_beta = nn.Parameter(torch.randn(width))
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, there: Tensor, at: Tensor | None = None) -> Tensor:
        """[B, L, D], bool [B, L, 1] where items stand, [B, P] -> [B, L, D] or [B, P, D]."""
        here, low = places_at(x, at), convolve(self.kernel, x * there, at)
        return self.norm(here + self.dropout(low + self.sqrt_beta**2 * (here - low)))
