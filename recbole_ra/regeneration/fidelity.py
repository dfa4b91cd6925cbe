"""Fidelity control: keep of a decoded sequence only what a trained recommender finds plausible.

Beyond DR4SR; the idea is RSIR's (arXiv 2602.15659), where a generated step counts only if it fits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recbole_ra.data.table import gather_windows, offsets_of, places
from recbole_ra.regeneration.decoding import Decoded
from recbole_ra.regeneration.network import Regenerator

Score = Callable[[Tensor, Tensor], Tensor]
"""Right-padded histories [B, L] and lengths [B] -> score of every item [B, N]."""


@torch.no_grad()
def keep_plausible(
    decoded: Decoded, score: Score, *, rank: int, max_length: int, batch_size: int, device: torch.device
) -> Decoded:
    """Drop each decoded item that is not among the first ``rank`` after the items kept before it.

    The first item of a row has nothing before it and stays. ``score`` is the trained recommender; it sees
    the latest ``max_length`` items, ``batch_size`` rows at once.
    """
    lengths = np.diff(decoded.offsets)
    keep = np.ones(len(decoded.items), dtype=bool)
    order = np.argsort(lengths, kind="stable")
    for first in range(int((lengths < 2).sum()), len(order), batch_size):
        rows = order[first : first + batch_size]
        start, length = decoded.offsets[rows], lengths[rows]
        tokens = torch.from_numpy(gather_windows(decoded.items, start, length)).to(device)
        plausible = _plausible(tokens, score, rank, max_length)[tokens > 0]
        keep[places(start, length)] = plausible.cpu().numpy()
    count = np.concatenate([[0], np.cumsum(keep)])
    return Decoded(decoded.items[keep], count[decoded.offsets], decoded.source, decoded.latent)


@torch.no_grad()
def keep_agreed(decoded: Decoded, network: Regenerator, *, batch_size: int, device: torch.device) -> Decoded:
    """Empty each row for which the diversity promoter, shown it, would choose another latent space.

    A space that is decoded from whatever the source then adds only what the promoter, in training, sent
    there. Rows without items stay as they are; ``batch_size`` rows are read at once.
    """
    network = network.to(device).eval()
    lengths = np.diff(decoded.offsets)
    agreed = np.zeros(len(decoded), dtype=bool)
    order = np.argsort(lengths, kind="stable")
    for first in range(int((lengths < 1).sum()), len(order), batch_size):
        rows = order[first : first + batch_size]
        tokens = torch.from_numpy(gather_windows(decoded.items, decoded.offsets[rows], lengths[rows]))
        chosen = network.spaces(tokens.to(device)).argmax(1)
        agreed[rows] = chosen.cpu().numpy() == decoded.latent[rows]
    keep = np.repeat(agreed, lengths)
    return Decoded(decoded.items[keep], offsets_of(lengths * agreed), decoded.source, decoded.latent)


def _plausible(tokens: Tensor, score: Score, rank: int, max_length: int) -> Tensor:
    """Tell which tokens of right-padded rows stay, [B, T] -> bool [B, T]."""
    stays, kept = torch.zeros_like(tokens, dtype=torch.bool), torch.zeros_like(tokens)
    stays[:, 0], kept[:, 0] = True, tokens[:, 0]
    count = torch.ones_like(tokens[:, 0])
    for step in range(1, tokens.shape[1]):
        rows = (tokens[:, step] > 0).nonzero()[:, 0]
        token, length = tokens[rows, step], count[rows]
        seen = length.clamp(max=max_length)
        columns = (length - seen)[:, None] + torch.arange(int(seen.max()), device=tokens.device)
        history = kept[rows].gather(1, columns.clamp(max=tokens.shape[1] - 1))
        history = history.masked_fill(columns >= length[:, None], 0)
        scores = score(history, seen)
        own = scores.gather(1, token[:, None])
        better = (scores[:, 1:] > own).sum(1)  # padding, item 0, is no competitor
        good = rows[better < rank]
        stays[good, step] = True
        kept[good, count[good]] = tokens[good, step]
        count[good] += 1
    return stays
