"""The retrieval-augmented module (RAM): neighbours are fused into a state by cross-attention.

Shapes: ``B`` rows, ``K`` neighbours, ``D`` width, ``H`` heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.models.dropout import Dropout, dropout

EPS = 1e-6
"""Smallest entropy that is told from none."""


class CrossAttention(nn.Module):
    """Multi-head attention of one query a row over its own ``K`` keys and values.

    The key and value projections are moved to the query's and the result's side, which is the same
    product in another order: ``O(B H D^2 + B K H D)`` instead of ``O(B K D^2)``. The keys' bias
    shifts all scores of a query alike and so is left out.
    """

    def __init__(self, *, width: int, n_heads: int, temperature: float, dropout: float) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by n_heads {n_heads}")
        self.n_heads = n_heads
        self.scale = (width // n_heads) ** -0.5 / temperature
        self.p = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def scores(self, query: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        """How much each head looks at each neighbour: [B, D], [B, K, D], [B, K] -> logits [B, H, K]."""
        b, d = query.shape
        h = self.n_heads
        q = self.query(query).view(b, h, d // h) * self.scale  # [B, H, D/H]
        q = torch.einsum("bhe,hed->bhd", q, self.key.weight.view(h, d // h, d))  # [B, H, D]
        scores = torch.matmul(q, keys.transpose(1, 2))  # [B, H, K]
        return scores.masked_fill(~valid[:, None, :], torch.finfo(scores.dtype).min)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """[B, D], [B, K, D], [B, K, D], [B, K] -> [B, D].

        A row without a valid neighbour attends evenly; the caller discards it.
        """
        b, d = query.shape
        h = self.n_heads
        weights = dropout(self.scores(query, keys, valid).softmax(-1), self.p, self.training)
        mixed = torch.matmul(weights, values)  # [B, H, D]
        mixed = torch.einsum("bhd,hed->bhe", mixed, self.value.weight.view(h, d // h, d))  # [B, H, D/H]
        bias = self.value.bias.view(h, d // h) * weights.sum(-1, keepdim=True)
        return self.dropout(self.out((mixed + bias).reshape(b, d)))


class Channel(nn.Module):
    """Cross-attention, feed-forward with residual and LayerNorm, cross-attention (RaSeRec's RAM).

    Both attentions see the same neighbours; there is no residual around them.
    """

    def __init__(self, *, width: int, n_heads: int, inner: int, temperature: float, dropout: float) -> None:
        super().__init__()
        self.first = CrossAttention(width=width, n_heads=n_heads, temperature=temperature, dropout=dropout)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.second = CrossAttention(width=width, n_heads=n_heads, temperature=temperature, dropout=dropout)

    def forward(self, state: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """[B, D], [B, K, D], [B, K, D], [B, K] -> [B, D]."""
        x = self.first(state, keys, values, valid)
        x = self.norm(x + self.dropout(self.outer(F.gelu(self.inner(x)))))
        return self.second(x, keys, values, valid)


class Fusion(nn.Module):
    """``h~ = a h + b h'`` with ``h' = beta h'_s + (1 - beta) h'_t`` (METHOD 5).

    Channel ``s`` attends keys = memories' states, values = their targets' vectors; channel ``t``
    the other way round. A channel whose weight is zero does not exist. A row without a valid
    neighbour keeps ``h``, and so does every row at ``alpha = 1``.

    Parameters
    ----------
    kind : {"raserec", "scaled", "gate", "entropy"}
        ``raserec``: ``a = alpha``, ``b = 1 - alpha``. ``scaled``: the same divided by ``alpha``, so that the
        backbone's temperature stays. ``gate``: as ``raserec``, with an ``alpha`` of each row that is learned
        from the state, the distances of the neighbours and their agreement; at first it is ``alpha``.
        ``entropy`` (after ReAd, arXiv 2604.05379): as ``raserec``, but the side that is surer counts more:
        the odds of ``a`` are those of ``alpha`` times the entropy of the softmax of the scores of ``h'`` over
        that of ``h``.
    alpha : float
        May be changed after training; no part of a checkpoint, so that a training can go on with another.
    """

    alpha: Tensor

    def __init__(
        self,
        *,
        width: int,
        alpha: float,
        beta: float,
        n_heads: int,
        inner: int,
        temperature: float,
        dropout: float,
        kind: str = "raserec",
    ) -> None:
        super().__init__()
        self.kind, self.beta = kind, beta
        self.register_buffer("alpha", torch.tensor(alpha, dtype=torch.float64), persistent=False)
        channel = functools.partial(
            Channel, width=width, n_heads=n_heads, inner=inner, temperature=temperature, dropout=dropout
        )
        self.by_state = channel() if beta > 0 else None
        self.by_target = channel() if beta < 1 else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.gate = Gate(width, dropout) if kind == "gate" else None

    def read(self, state: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """Return ``h'``, what the memories say: [B, D], [B, K, D], [B, K, D], [B, K] -> [B, D]."""
        fused = torch.zeros_like(state)
        if self.by_state is not None:
            fused = fused + self.beta * self.by_state(state, keys, values, valid)
        if self.by_target is not None:
            fused = fused + (1 - self.beta) * self.by_target(state, values, keys, valid)
        return fused

    def logit_shift(
        self,
        state: Tensor,
        keys: Tensor,
        values: Tensor,
        valid: Tensor,
        read: Tensor,
        entropy: Callable[[Tensor], Tensor] | None,
    ) -> Tensor | None:
        """Return the shift of the logit of ``alpha`` for each row, shape [B, 1]; None for other kinds.

        Parameters
        ----------
        read : Tensor, shape [B, D]
            ``h'``, what the memories say; others as in :meth:`forward`.
        entropy : callable, optional
            Gives the entropy of the softmax of the scores of states: [B, D] -> [B].
        """
        if self.kind == "entropy":
            assert entropy is not None, "the recommender knows the scores of states"
            own, other = entropy(state), entropy(read)
            return (other.clamp(min=EPS).log() - own.clamp(min=EPS).log())[:, None]
        return None if self.gate is None else self.gate(state, keys, values, valid)

    def alignment_loss(
        self, state: Tensor, keys: Tensor, values: Tensor, valid: Tensor, target: Tensor
    ) -> Tensor:
        """How far attention is from the neighbours that help, shape [].

        Cross-entropy between the attention of the first step and the softmax of how well the vector of each
        neighbour's item scores the target, ``v_k v_target`` (ReAd's alignment of retrieval with the loss).

        Parameters
        ----------
        target : Tensor, shape [B, D]
            The vector of the item that followed; others as in :meth:`forward`.
        """
        channel = self.by_state if self.by_state is not None else self.by_target
        assert channel is not None, "one of the channels has a weight"
        pair = (keys, values) if self.by_state is not None else (values, keys)
        attention = channel.first.scores(state, pair[0], valid).log_softmax(-1).mean(1)  # [B, K]
        with torch.no_grad():
            gains = torch.einsum("bkd,bd->bk", values, target)
            helps = gains.masked_fill(~valid, torch.finfo(gains.dtype).min).softmax(1) * valid
        return -(helps * attention.masked_fill(~valid, 0.0)).sum(1).mean()

    def weights(self, alpha: Tensor, valid: Tensor, logit_shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the factors ``a`` and ``b``, shape [B, 1] each, for some ``alpha``, shape []."""
        own = alpha if logit_shift is None else torch.sigmoid(logit_shift + torch.logit(alpha))
        own = torch.where(valid.any(1, keepdim=True), own, 1.0)  # [B, 1]
        if self.kind == "scaled":
            return torch.ones_like(own), (1 - own) / own
        return own, 1 - own

    def forward(
        self,
        state: Tensor,
        keys: Tensor,
        values: Tensor,
        valid: Tensor,
        entropy: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Fuse neighbours into states.

        Parameters
        ----------
        state : Tensor, shape [B, D]
        keys : Tensor, shape [B, K, D]
            The memories' states.
        values : Tensor, shape [B, K, D]
            The vectors of the items that followed.
        valid : bool Tensor, shape [B, K]

        entropy : callable
            See :meth:`logit_shift`.

        Returns
        -------
        Tensor, shape [B, D]
        """
        read = self.read(state, keys, values, valid)
        logit_shift = self.logit_shift(state, keys, values, valid, read, entropy)
        own, other = self.weights(self.alpha.to(state.dtype), valid, logit_shift)
        return own * state + other * read


class Gate(nn.Module):
    """How much a row trusts its own state: what is added to the logit of ``alpha``; at first nothing."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width + 3, width)
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(width, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, state: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """[B, D], [B, K, D], [B, K, D], [B, K] -> [B, 1]."""
        near = F.cosine_similarity(state[:, None], keys, dim=-1).masked_fill(~valid, 0.0)  # [B, K]
        count = valid.sum(1, keepdim=True).clamp(min=1)
        directions = F.normalize(values, dim=-1) * valid[..., None]
        # 1 where all neighbours bring one item, near 0 where each brings another.
        agreement = directions.sum(1).norm(dim=-1, keepdim=True) / count
        facts = torch.cat([near.amax(1, keepdim=True), near.sum(1, keepdim=True) / count, agreement], 1)
        return self.outer(self.dropout(F.gelu(self.inner(torch.cat([state, facts], 1)))))
