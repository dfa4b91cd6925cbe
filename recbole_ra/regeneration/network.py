"""The diversity-promoted regenerator of DR4SR (METHOD 1.3): reads a sequence, writes a pattern of it.

Shapes: ``B`` rows, ``L`` items of a source, ``T`` items of a pattern, ``P`` latent spaces, ``D``
width. Rows are right-padded with 0; inside, tokens are packed (:mod:`recbole_ra.regeneration.packing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_ra.models.dropout import Dropout
from recbole_ra.models.losses import full_softmax
from recbole_ra.regeneration.encoder_decoder import BlockOptions, Decoder, DecoderCache, Encoder
from recbole_ra.regeneration.packing import AttentionMask, Packing, hide


@dataclass(frozen=True)
class PairLoss:
    """What a batch of (source, pattern) pairs costs.

    Attributes
    ----------
    reconstruction : Tensor, shape []
        Cross-entropy of every token, items and end symbols, summed.
    n_tokens : int
    entropy : Tensor, shape []
        ``-Σ π log π`` of the choice among the latent spaces, summed over rows; 0 with one space.
    usage : Tensor, shape [P]
        ``π`` summed over rows: how much each latent space is chosen. Nothing in the paper's objective
        keeps it even, and a space that is never chosen is never trained.
    n_rows : int
    """

    reconstruction: Tensor
    n_tokens: int
    entropy: Tensor
    usage: Tensor
    n_rows: int

    @property
    def total(self) -> Tensor:
        """Mean over tokens plus mean over rows: minimising it pushes ``π`` towards one space."""
        return self.reconstruction / self.n_tokens + self.entropy / self.n_rows


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
        """``Σ_p π_p m^p`` without making the ``m^p``.

        Parameters
        ----------
        memory : Tensor, shape [tokens, D]
        choice : Tensor, shape [B, P]
            The weights ``π``.
        row : int64 Tensor, shape [tokens]

        Returns
        -------
        Tensor, shape [tokens, D]
        """
        weighted = self._inner(memory) * choice.index_select(0, row)[:, :, None]
        return self.outer(weighted.flatten(1)) + (choice @ self.bias).index_select(0, row)

    def _inner(self, memory: Tensor) -> Tensor:
        return F.relu(self.inner(memory)).view(*memory.shape[:-1], self.n_latents, -1)


class Promoter(nn.Module):
    """The diversity promoter: reads the target pattern, weighs the latent spaces."""

    def __init__(self, n_layers: int, options: BlockOptions, n_latents: int) -> None:
        super().__init__()
        width = options["width"]
        self.encoder = Encoder(n_layers, options)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_latents))

    def forward(self, x: Tensor, pattern: Packing, mask: AttentionMask, tau: float) -> Tensor:
        """[pattern tokens, D] -> ``log π``, shape [B, P], by a Gumbel softmax of temperature ``tau``.

        The Gumbel noise comes from torch's global generator, in training only.
        """
        x = self.encoder(x, mask)
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
    max_source : int
        Longest source, in items.
    max_target : int
        Most tokens that the decoder reads: the begin symbol and the items of the longest pattern.
    width, n_layers, n_heads, inner, dropout, eps, initializer_range
        Of the Transformers; encoder, decoder and promoter have ``n_layers`` each.
    n_latents : int
        Latent spaces, ``P``.
    diversity : bool
        False gives a plain Transformer: no latent spaces, no promoter, ``P = 1`` (ablation A).
    causal_encoder : bool
        Mask the encoder causally in :meth:`loss` only, as the released code does (METHOD 7). The
        paper's encoder is bidirectional.
    candidates : {"source", "catalogue"}
        What a token of a pattern is told from in :meth:`loss`: the items of its source (the paper), or
        all items. Told from the source alone, the model never learns to choose among other items, yet
        a generative step does.
    """

    def __init__(
        self,
        *,
        n_items: int,
        max_source: int,
        max_target: int = 26,
        width: int = 64,
        n_layers: int = 2,
        n_heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        n_latents: int = 5,
        diversity: bool = True,
        causal_encoder: bool = False,
        candidates: str = "source",
        initializer_range: float = 0.02,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        options = BlockOptions(width=width, n_heads=n_heads, inner=inner, dropout=dropout, eps=eps)
        self.n_items = n_items
        self.n_heads = n_heads
        self.n_latents = n_latents if diversity else 1
        self.causal_encoder = causal_encoder
        self.candidates = candidates
        self.items = nn.Embedding(n_items + 2, width, padding_idx=0)
        self.source_positions = nn.Embedding(max_source, width)
        self.target_positions = nn.Embedding(max_target, width)
        self.source_norm = nn.LayerNorm(width, eps=eps)
        self.target_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(dropout)
        self.encoder = Encoder(n_layers, options)
        self.decoder = Decoder(n_layers, options)
        self.latents = Latents(width, n_latents) if diversity else None
        self.promoter = Promoter(n_layers, options, n_latents) if diversity else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def begin(self) -> int:
        """Id of the symbol that a decoding starts with."""
        return self.n_items

    @property
    def end(self) -> int:
        """Id of the symbol that ends a pattern."""
        return self.n_items + 1

    @property
    def item_table(self) -> Tensor:
        """Vectors of all items and of the two symbols, shape [N + 2, D]."""
        return self.items.weight

    @torch.no_grad()
    def load_items(self, table: Tensor) -> None:
        """Start from the item vectors of a trained model, shape [N, D]."""
        own = self.item_table[: self.n_items]
        if own.shape != table.shape:
            raise ValueError(f"item vectors have shape {list(table.shape)}, not {list(own.shape)}")
        own.copy_(table)

    def loss(self, groups: Sequence[tuple[Tensor, Tensor]], tau: float) -> PairLoss:
        """Cost of writing patterns from their sources.

        Parameters
        ----------
        groups : sequence of (source [b, L], pattern [b, T])
            The batch in groups of like source length; how it is cut changes nothing but the time.
            A pattern's items must occur in its source.
        tau : float
            Temperature of the Gumbel softmax.
        """
        source = Packing([part for part, _ in groups])
        longest = max(part.shape[1] for _, part in groups)
        items = torch.cat([F.pad(part, (0, longest - part.shape[1])) for _, part in groups])
        pattern = Packing([items])
        given = Packing([F.pad(items, (1, 0), value=self.begin)])
        # One look-up for everything: each would give a gradient as large as the whole table.
        ids = torch.cat([source.tokens, given.tokens, source.tokens.new_tensor([self.end])])
        vectors = torch.split(F.embedding(ids, self.item_table), [len(source), len(given), 1])

        memory = self._encode(vectors[0], source, causal=self.causal_encoder)
        x = self._embed(vectors[1], given, self.target_positions, self.target_norm)
        entropy, usage = x.new_zeros(()), x.new_full((1,), len(items))
        if self.promoter is not None and self.latents is not None:
            mask = AttentionMask(pattern, pattern, self.n_heads, x.dtype)
            # Without the begin symbol, which stands first in every row.
            read = x.index_select(0, (given.position > 0).nonzero().squeeze(1))
            log_choice = self.promoter(read, pattern, mask, tau)
            choice = log_choice.exp()
            entropy, usage = -(choice * log_choice).sum(), choice.sum(0)
            memory = self.latents.mix(memory, choice, source.row)
        own = AttentionMask(given, given, self.n_heads, x.dtype, causal=True)
        across = AttentionMask(given, source, self.n_heads, x.dtype)
        states = self.decoder(x, memory, own, across)
        if self.candidates == "source":
            reconstruction = _restricted_cross_entropy(states, given, vectors, source)
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

    def start(self, memory: Tensor, hidden: Tensor, n_steps: int) -> DecoderCache:
        """Begin to decode: memory [R, L, D], its padding [R, L]."""
        return self.decoder.start(memory, hidden, n_steps)

    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """States [R, D] that score what follows ``tokens`` [R], the latest of each row."""
        position = self.target_positions.weight[cache.length]
        x = self.dropout(self.target_norm(F.embedding(tokens, self.item_table) + position))
        return self.decoder.step(x, cache)

    def _encode(self, vectors: Tensor, source: Packing, *, causal: bool) -> Tensor:
        """[source tokens, D] -> [source tokens, D]."""
        x = self._embed(vectors, source, self.source_positions, self.source_norm)
        return self.encoder(x, AttentionMask(source, source, self.n_heads, x.dtype, causal=causal))

    def _catalogue_cross_entropy(self, states: Tensor, given: Packing) -> Tensor:
        """The same as :func:`_restricted_cross_entropy`, but among all items and the end."""
        table = torch.cat([self.item_table[1 : self.n_items], self.item_table[self.end :]])
        following = given.tokens.roll(-1) - 1
        following[given.lengths.cumsum(0) - 1] = len(table) - 1  # the end symbol
        return full_softmax(states, table, following) * len(given)

    def _embed(self, vectors: Tensor, packed: Packing, places: nn.Embedding, norm: nn.LayerNorm) -> Tensor:
        longest = max(group.shape[1] for group in packed.groups)
        if longest > places.num_embeddings:
            raise ValueError(
                f"{longest} tokens in a row, but the model has {places.num_embeddings} positions"
            )
        return self.dropout(norm(vectors + places(packed.position)))


def _restricted_cross_entropy(
    states: Tensor, given: Packing, vectors: Sequence[Tensor], source: Packing
) -> Tensor:
    """Cross-entropy of what follows each token among the distinct items of its source and the end.

    Parameters
    ----------
    states : Tensor, shape [target tokens, D]
    given : Packing
        What the decoder read: begin symbol and items.
    vectors : sequence of Tensor, shapes [source tokens, D], [target tokens, D], [1, D]
        Of the sources, of what the decoder read, and of the end symbol.
    source : Packing

    Returns
    -------
    Tensor, shape []
        Summed over tokens.
    """
    candidates, read, end = vectors
    normalisers = []
    rows = torch.split(given.pad(states)[0], source.counts)
    for wanted, vector, items in zip(rows, source.pad(candidates), source.groups, strict=True):
        # An item counts where it occurs first.
        again = (items[:, :, None] == items[:, None, :]).tril(-1).any(-1) | (items == 0)
        scores = torch.baddbmm(hide(again, states.dtype)[:, :, None], vector, wanted.mT)  # [b, L, T + 1]
        normalisers.append(scores.logsumexp(1))
    normaliser = torch.logaddexp(given.pack(normalisers), states @ end[0])
    following = torch.arange(1, len(given) + 1, device=states.device)
    following[given.lengths.cumsum(0) - 1] = len(given)  # the end symbol
    target = torch.cat([read, end]).index_select(0, following)
    return normaliser.sum() - (states * target).sum()
