"""The diversity-promoted regenerator of DR4SR (METHOD 1.3): reads a sequence, writes a pattern of it.

Shapes: ``B`` rows, ``L`` items of a source, ``T`` items of a pattern, ``P`` latent spaces, ``D``
width. Rows are right-padded with 0; inside, tokens are packed (``packed_attention.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.models.dropout import Dropout
from recbole_ra.models.softmax import full_softmax
from recbole_ra.regeneration.encoder_decoder import Decoder, DecoderCache, Encoder
from recbole_ra.regeneration.packed_attention import EPS, AttentionMask, Packing, hide


@dataclass(frozen=True)
class PairLoss:
    """What a batch of (source, pattern) pairs costs.

    Attributes
    ----------
    reconstruction : Tensor, shape []
        Cross-entropy of every token, items and end symbols, summed.
    entropy : Tensor, shape []
        ``-Σ π log π`` of the choice among the latent spaces, summed over rows; 0 with one space.
    usage : Tensor, shape [P]
        ``π`` summed over rows. Nothing in the paper's objective keeps it even, and a space that is
        never chosen is never trained.
    """

    reconstruction: Tensor
    n_tokens: int
    entropy: Tensor
    usage: Tensor
    n_rows: int


class Latents(nn.Module):
    """Projects a memory into ``P`` latent spaces, an MLP for each: ``m^p = W_p relu(V_p m) + b_p``."""

    def __init__(self, width: int, n_latents: int) -> None:
        super().__init__()
        self.n_latents = n_latents
        self.inner = nn.Linear(width, n_latents * width)
        self.outer = nn.Linear(n_latents * width, width, bias=False)  # the W_p side by side
        self.bias = nn.Parameter(torch.zeros(n_latents, width))

    def forward(self, memory: Tensor) -> Tensor:
        """[..., D] -> [..., P, D]."""
        outer = self.outer.weight.view(memory.shape[-1], self.n_latents, -1)  # [D, P, D]
        return torch.einsum("...pe,dpe->...pd", self._inner(memory), outer) + self.bias

    def mix(self, memory: Tensor, choice: Tensor, row: Tensor) -> Tensor:
        """Compute ``Σ_p π_p m^p``, [tokens, D], without making the ``m^p``.

        From the memory, [tokens, D], the weights ``π`` of each row, [B, P], and each token's row.
        """
        weighted = self._inner(memory) * choice.index_select(0, row)[:, :, None]
        return self.outer(weighted.flatten(1)) + (choice @ self.bias).index_select(0, row)

    def _inner(self, memory: Tensor) -> Tensor:
        return F.relu(self.inner(memory)).view(*memory.shape[:-1], self.n_latents, -1)


class Promoter(nn.Module):
    """The diversity promoter: reads the target pattern, weighs the latent spaces."""

    def __init__(self, n_layers: int, width: int, inner: int, dropout: float, n_latents: int) -> None:
        super().__init__()
        self.encoder = Encoder(n_layers, width, inner, dropout)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_latents))

    def forward(self, x: Tensor, pattern: Packing, tau: float) -> Tensor:
        """[pattern tokens, D] -> ``log π``, shape [B, P], by a Gumbel softmax of temperature ``tau``.

        The Gumbel noise comes from torch's global generator, in training only.
        """
        x = self.encoder(x, AttentionMask(pattern, pattern, x.dtype))
        pooled = x.new_zeros(len(pattern.lengths), x.shape[1]).index_add(0, pattern.row, x)
        logits = self.head(pooled / pattern.lengths[:, None])
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()
        return (logits / tau).log_softmax(-1)


class Regenerator(nn.Module):
    """Encoder–decoder Transformer whose decoder attends a mixture of ``P`` latent memories.

    Source, pattern and output share one item table.

    Parameters
    ----------
    n_items : int
        Size of the vocabulary, padding (0) included. Rows ``n_items`` and ``n_items + 1`` of the
        item table are the begin and the end symbol.
    max_source, max_target : int
        Positions of encoder and decoder: the longest source; the begin symbol and the longest pattern.
    width, n_layers, inner, dropout, initializer_range
        Of the Transformers; encoder, decoder and promoter have ``n_layers`` each.
    diversity : bool
        False gives a plain Transformer: no latent spaces, no promoter, ``P = 1`` (ablation A).
    causal_encoder : bool
        Mask the encoder causally in :meth:`loss` only, as the released code does (METHOD 7). The
        paper's encoder is bidirectional.
    candidates : {"source", "catalogue"}
        Among which items :meth:`loss` places a pattern's next one: those of its source (the paper), or
        all. With those of the source the model never learns to choose among others, yet a generative
        step does.
    """

    def __init__(
        self,
        *,
        n_items: int,
        max_source: int,
        max_target: int = 26,
        width: int = 64,
        n_layers: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        n_latents: int = 5,
        diversity: bool = True,
        causal_encoder: bool = False,
        candidates: str = "source",
        initializer_range: float = 0.02,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.begin, self.end = n_items, n_items + 1
        self.n_latents = n_latents if diversity else 1
        self.causal_encoder = causal_encoder
        self.candidates = candidates
        self.items = nn.Embedding(n_items + 2, width, padding_idx=0)
        self.source_positions = nn.Embedding(max_source, width)
        self.target_positions = nn.Embedding(max_target, width)
        self.source_norm = nn.LayerNorm(width, eps=EPS)
        self.target_norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = Dropout(dropout)
        self.encoder = Encoder(n_layers, width, inner, dropout)
        self.decoder = Decoder(n_layers, width, inner, dropout)
        self.latents = Latents(width, n_latents) if diversity else None
        self.promoter = Promoter(n_layers, width, inner, dropout, n_latents) if diversity else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def item_table(self) -> Tensor:
        """Vectors of all items and of the two symbols, shape [N + 2, D]."""
        return self.items.weight

    @torch.no_grad()
    def load_items(self, table: Tensor) -> None:
        """Start from the item vectors of a trained model, shape [N, D]."""
        self.item_table[: self.n_items].copy_(table)

    def loss(self, groups: Sequence[tuple[Tensor, Tensor]], tau: float) -> PairLoss:
        """Compute what writing patterns from their sources costs.

        Parameters
        ----------
        groups : sequence of (source [b, L], pattern [b, T])
            The batch in groups of like source length; how it is cut changes nothing but the time.
            A pattern's items must occur in its source, unless all items are candidates.
        tau : float
            Temperature of the Gumbel softmax.
        """
        source = Packing([part for part, _ in groups])
        longest = max(part.shape[1] for _, part in groups)
        items = torch.cat([F.pad(part, (0, longest - part.shape[1])) for _, part in groups])
        given = Packing([F.pad(items, (1, 0), value=self.begin)])
        # One look-up for everything: each would give a gradient as large as the whole table.
        ids = torch.cat([source.tokens, given.tokens, source.tokens.new_tensor([self.end])])
        vectors = torch.split(F.embedding(ids, self.item_table), [len(source), len(given), 1])

        memory = self._encode(vectors[0], source, causal=self.causal_encoder)
        x = self._embed(vectors[1], given, self.target_positions, self.target_norm)
        entropy, usage = x.new_zeros(()), x.new_full((1,), len(items))
        if self.promoter is not None and self.latents is not None:
            # Without the begin symbol, which stands first in every row.
            pattern_tokens = x.index_select(0, (given.position > 0).nonzero().squeeze(1))
            log_choice = self.promoter(pattern_tokens, Packing([items]), tau)
            choice = log_choice.exp()
            entropy, usage = -(choice * log_choice).sum(), choice.sum(0)
            memory = self.latents.mix(memory, choice, source.row)
        own = AttentionMask(given, given, x.dtype, causal=True)
        states = self.decoder(x, memory, own, AttentionMask(given, source, x.dtype))
        if self.candidates == "source":
            reconstruction = _source_cross_entropy(states, given, vectors, source)
        else:
            reconstruction = self._catalogue_cross_entropy(states, given)
        return PairLoss(reconstruction, len(given), entropy, usage, len(items))

    def memories(self, source: Tensor) -> Tensor:
        """Encode sources [B, L] into their latent memories, shape [B, P, L, D]; never causal."""
        packed = Packing([source])
        memory = self._encode(F.embedding(packed.tokens, self.item_table), packed, causal=False)
        spaces = memory[:, None] if self.latents is None else self.latents(memory)  # [tokens, P, D]
        padded = packed.pad(spaces.flatten(1))[0]  # [B, L, P * D]
        return padded.view(*source.shape, self.n_latents, -1).transpose(1, 2)

    def spaces(self, pattern: Tensor) -> Tensor:
        """Return ``log p(space | pattern)`` as the promoter reads right-padded patterns, [B, T] -> [B, P].

        Raises
        ------
        ValueError
            If there is no promoter.
        """
        if self.promoter is None:
            raise ValueError("a regenerator without diversity has no promoter")
        # As in the loss, where the begin symbol stands before the pattern.
        given = Packing([F.pad(pattern, (1, 0), value=self.begin)])
        x = self._embed(
            F.embedding(given.tokens, self.item_table), given, self.target_positions, self.target_norm
        )
        tokens = x.index_select(0, (given.position > 0).nonzero().squeeze(1))
        return self.promoter(tokens, Packing([pattern]), 1.0)

    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Read ``tokens`` [R], the latest of each row; the states [R, D] score what follows."""
        position = self.target_positions.weight[cache.length]
        x = self.dropout(self.target_norm(F.embedding(tokens, self.item_table) + position))
        return self.decoder.step(x, cache)

    def _encode(self, vectors: Tensor, source: Packing, *, causal: bool) -> Tensor:
        """[source tokens, D] -> [source tokens, D]."""
        x = self._embed(vectors, source, self.source_positions, self.source_norm)
        return self.encoder(x, AttentionMask(source, source, x.dtype, causal=causal))

    def _embed(self, vectors: Tensor, packed: Packing, places: nn.Embedding, norm: nn.LayerNorm) -> Tensor:
        longest = max(group.shape[1] for group in packed.groups)
        if longest > places.num_embeddings:
            raise ValueError(
                f"{longest} tokens in a row, but the model has {places.num_embeddings} positions"
            )
        return self.dropout(norm(vectors + places(packed.position)))

    def _catalogue_cross_entropy(self, states: Tensor, given: Packing) -> Tensor:
        """Cross-entropy of what follows each token among all items and the end, summed over tokens."""
        table = torch.cat([self.item_table[1 : self.n_items], self.item_table[self.end :]])
        following = given.tokens.roll(-1) - 1
        following[given.lengths.cumsum(0) - 1] = len(table) - 1  # the end symbol
        return full_softmax(states, table, following) * len(given)


def _source_cross_entropy(
    states: Tensor, given: Packing, vectors: Sequence[Tensor], source: Packing
) -> Tensor:
    """Cross-entropy of what follows each token among its source's items and the end, summed over tokens.

    ``given`` is what the decoder read; ``vectors`` are those of the sources, of ``given`` and of the end.
    """
    of_sources, of_given, end = vectors
    normalisers = []
    rows = torch.split(given.pad(states)[0], [len(group) for group in source.groups])
    for wanted, vector, items in zip(rows, source.pad(of_sources), source.groups, strict=True):
        # An item counts where it occurs first.
        again = (items[:, :, None] == items[:, None, :]).tril(-1).any(-1) | (items == 0)
        scores = torch.baddbmm(hide(again, states.dtype)[:, :, None], vector, wanted.mT)  # [b, L, T + 1]
        normalisers.append(scores.logsumexp(1))
    normaliser = torch.logaddexp(given.pack(normalisers), states @ end[0])
    following = torch.arange(1, len(given) + 1, device=states.device)
    following[given.lengths.cumsum(0) - 1] = len(given)  # the end symbol
    target = torch.cat([of_given, end]).index_select(0, following)
    return normaliser.sum() - (states * target).sum()
