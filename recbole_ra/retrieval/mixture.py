"""Mixing of two distributions: the backbone's softmax, and what followed the nearest memories.

``p = alpha softmax(s) + (1 - alpha) p_kNN`` as in kNN-LM (Khandelwal et al., ICLR 2020); ``p_kNN`` gives each
item that a neighbour brought the softmax of the neighbours' cosines over a temperature. Nothing is trained.

Shapes: ``B`` rows, ``K`` neighbours, ``N`` items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_ra.models.history import ItemOffsets


class Mixture(nn.Module):
    """A mixture that leaves the scores of all other items as they are, and raises those of neighbours.

    Parameters
    ----------
    alpha : float in (0, 1]
        Weight of the backbone.
    temperature : float
        Of the cosines.
    """

    alpha: Tensor
    temperature: Tensor

    def __init__(self, alpha: float, temperature: float) -> None:
        super().__init__()
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64))
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float64))

    def offsets(self, scores: Tensor, items: Tensor, cosines: Tensor, valid: Tensor) -> ItemOffsets:
        """Return what the mixture adds to the backbone's scores; others keep theirs, up to a constant.

        ``log p_j = s_j + log1p((1 - alpha) / alpha * p_kNN_j / softmax(s)_j) + constant``.

        Parameters
        ----------
        scores : Tensor, shape [B, N]
            The backbone's.
        items : int64 Tensor, shape [B, K]
            What each neighbour brought.
        cosines : Tensor, shape [B, K]
        valid : bool Tensor, shape [B, K]
        """
        alpha, temperature = self.alpha.to(scores.dtype), self.temperature.to(scores.dtype)
        weight = (cosines / temperature).masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(1) * valid
        same = (items[:, :, None] == items[:, None, :]) & valid[:, None, :]
        share = (same * weight[:, None, :]).sum(-1)  # of the item, all its neighbours together
        first = valid & ~torch.tril(same, -1).any(-1)
        surprise = scores.logsumexp(1, keepdim=True) - scores.gather(1, items)
        added = torch.log1p((1 - alpha) / alpha * share * surprise.exp())
        return ItemOffsets(items * first, added * first)
