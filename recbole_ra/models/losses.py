"""Losses of next-item prediction, and the contrastive loss.

Shapes: ``T`` targets, ``S`` negatives per target, ``D`` width, ``N`` items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.core.setting import setting
from recbole_ra.models.history import ItemOffsets
from recbole_ra.models.softmax import full_softmax

LOSSES = ("CE", "BPR", "BCE")
"""Cross-entropy over the catalogue, and two losses that compare with sampled negatives."""


@dataclass(frozen=True)
class LossSettings:
    """What a backbone is trained by."""

    loss_type: str = setting(
        "CE",
        "cross-entropy over the catalogue, or BPR or BCE with sampled negatives",
        choices=LOSSES,
        shapes="backbone raft",
        expert=True,
    )
    n_negatives: int = setting(
        1, "items that BPR and BCE compare a target with", low=1, shapes="backbone raft", expert=True
    )
    label_smoothing: float = setting(
        0.0,
        "share of a target's probability that CE spreads over all items",
        low=0,
        high=1,
        shapes="backbone",
        expert=True,
    )


def next_item_loss(
    kind: str,
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
    offsets: ItemOffsets | None = None,
    n_negatives: int = 1,
    smoothing: float = 0.0,
) -> Tensor:
    """Compute the loss of predicting the next items: the mean over targets of weight times loss.

    Parameters
    ----------
    kind : {"CE", "BPR", "BCE"}
        ``CE``: cross-entropy over the full catalogue (METHOD 0). ``BPR``: Bayesian personalised ranking
        (Rendle et al. 2009), as RecBole's ``BPRLoss``. ``BCE``: binary cross-entropy of the target against
        sampled negatives (SASRec, eq. 7).
    states : Tensor, shape [T, D]
    table : Tensor, shape [N, D]
        The item table; row 0 (padding) takes part in ``CE``, as in RecBole, and is never a negative.
    targets : int64 Tensor, shape [T]
    bias : Tensor, shape [N], optional
        Constant part of each item's score.
    weights : Tensor, shape [T], optional
        Of the targets; gradients reach them.
    offsets : ItemOffsets, optional
        What is added to the scores of a few items of each row; gradients reach their values.
    n_negatives : int
        Uniform items other than the target that ``BPR`` and ``BCE`` compare each target with; drawn from
        torch's global generator.
    smoothing : float
        Share of a target's probability that ``CE`` spreads evenly over the table (label smoothing, Szegedy
        et al., CVPR 2016).

    Returns
    -------
    Tensor, shape []
    """
    if bias is not None:
        states = torch.cat([states, states.new_ones(len(states), 1)], 1)
        table = torch.cat([table, bias[:, None]], 1)
    if kind == "CE":
        return full_softmax(states, table, targets, weights, offsets, smoothing=smoothing)
    negatives = draw_negatives(targets, len(table), n_negatives)
    compared = torch.cat([targets[:, None], negatives], 1)  # [T, 1 + S]
    scores = (states[:, None] * table[compared]).sum(-1)
    if offsets is not None:
        scores = scores + offsets.of(compared)
    if kind == "BPR":
        losses = bpr(scores[:, 0], scores[:, 1:])
    elif kind == "BCE":
        losses = bce(scores[:, 0], scores[:, 1:])
    else:
        raise ValueError(f"loss {kind!r} must be one of {', '.join(LOSSES)}")
    return (losses if weights is None else weights * losses).mean()


def draw_negatives(targets: Tensor, n_items: int, n_negatives: int = 1) -> Tensor:
    """Draw uniform items other than the target, int64 [T, S]; ``n_items`` counts padding and is above 2."""
    shape = (len(targets), n_negatives)
    drawn = torch.randint(1, n_items - 1, shape, device=targets.device)
    return drawn + (drawn >= targets[:, None])


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute ``-log sigmoid(positive - negative)`` of scores [T], [T, S], the mean over negatives, [T]."""
    return -torch.log(1e-10 + torch.sigmoid(positive[:, None] - negative)).mean(1)


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Compute ``-log sigmoid(positive) - Σ log(1 - sigmoid(negative))`` of scores [T], [T, S], shape [T]."""
    return F.softplus(-positive) + F.softplus(negative).sum(1)


def info_nce(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of the same rows (DuoRec, eq. 9), dot-product similarity.

    Parameters
    ----------
    one, other : Tensor, shape [B, D]
        Row ``i`` of both views is a positive pair; the other ``2(B - 1)`` rows are negatives.
    temperature : float

    Returns
    -------
    Tensor, shape []
    """
    views = torch.cat([one, other])  # [2B, D]
    n = len(one)
    positive = torch.arange(2 * n, device=one.device).roll(n)
    return full_softmax(views / temperature, views, positive, skip_diagonal=True)
