"""Rows of unequal length without padding, and who may attend to whom among them.

Lengths are long-tailed: padded to the longest, most of a batch would be padding. Here the tokens
of all rows lie one after another (*packed*, shape [tokens, D]), which is all that position-wise
layers need; only attention lays them out by rows, group by group of like length.

Shapes: ``b`` rows of a group, ``T`` queries and ``L`` keys of its longest row, ``D`` width, ``H``
heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Packing:
    """The tokens of padded groups without the padding, and the way back.

    Parameters
    ----------
    groups : sequence of int64 Tensor, shape [b, L]
        Right-padded with 0; every other number is a token.

    Attributes
    ----------
    groups : list of Tensor
        As given.
    tokens : int64, shape [tokens]
        Group after group, row after row.
    row, position : int64, shape [tokens]
        Row of each token, counted through all groups, and its place in the row.
    lengths : int64, shape [rows]
        Tokens of each row.
    """

    def __init__(self, groups: Sequence[Tensor]) -> None:
        self.groups = list(groups)
        flat = torch.cat([group.flatten() for group in groups])
        present = flat != 0
        self._place = present.nonzero().squeeze(1)
        # Padding stands for the token before it; any would do, as nothing attends to padding.
        self._token = (present.cumsum(0) - 1).clamp_(min=0)
        self.tokens = flat[self._place]
        self.lengths = torch.cat([(group != 0).sum(1) for group in groups])
        self.row = torch.arange(len(self.lengths), device=flat.device).repeat_interleave(self.lengths)
        first = self.lengths.cumsum(0) - self.lengths
        self.position = torch.arange(len(self.tokens), device=flat.device) - first[self.row]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def counts(self) -> list[int]:
        """Rows of each group."""
        return [len(group) for group in self.groups]

    def pad(self, x: Tensor) -> list[Tensor]:
        """[tokens, D] -> [b, L, D] for each group; what stands at padding means nothing."""
        places = torch.split(x.index_select(0, self._token), [group.numel() for group in self.groups])
        return [part.view(*group.shape, -1) for part, group in zip(places, self.groups, strict=True)]

    def pack(self, groups: Sequence[Tensor]) -> Tensor:
        """[b, L, ...] for each group, or for several with one L together -> [tokens, ...]."""
        return torch.cat([group.flatten(0, 1) for group in groups]).index_select(0, self._place)

    def by_head(self, n_heads: int) -> tuple[Tensor, Tensor]:
        """Ways between packed heads, [tokens * H], and rows by head, [b, H, L] for each group.

        Returns
        -------
        rows : int64, shape [places * H]
            Where in the packed heads each place by rows is found.
        packed : int64, shape [tokens * H]
            The reverse.
        """
        head = torch.arange(n_heads, device=self.tokens.device)
        rows, packed, start = [], [], 0
        for group in self.groups:
            b, length = group.shape
            token = self._token[start : start + b * length].view(b, 1, length)
            rows.append((token * n_heads + head[:, None]).flatten())
            place = torch.arange(b * n_heads * length, device=head.device) + start * n_heads
            packed.append(place.view(b, n_heads, length).transpose(1, 2).reshape(b * length, n_heads))
            start += b * length
        return torch.cat(rows), torch.cat(packed).index_select(0, self._place).flatten()


def hide(where: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to scores: 0, or where the mask says so a number that leaves nothing of them.

    It is finite, so that a row without any key attends evenly instead of giving NaN.
    """
    zeros = torch.zeros(where.shape, dtype=dtype, device=where.device)
    return zeros.masked_fill_(where, torch.finfo(dtype).min)


class AttentionMask:
    """Which keys each query may attend: those of its own row, all or up to its own position.

    Parameters
    ----------
    queries, keys : Packing
        Of the same rows; the queries in one group, or in the groups of the keys.
    n_heads : int
    dtype : torch.dtype
        Of the scores.
    causal : bool
        Whether keys after the query's position are hidden.

    Attributes
    ----------
    queries, keys : pair of int64 Tensor
        :meth:`Packing.by_head` of both.
    shapes : list of (b * H, T, L)
        For each group of the keys.
    bias : list of Tensor, shape [b * H, L, 1] or [b * H, L, T]
        Added to the scores, keys before queries.
    """

    def __init__(
        self, queries: Packing, keys: Packing, n_heads: int, dtype: torch.dtype, *, causal: bool = False
    ) -> None:
        self.queries = queries.by_head(n_heads)
        self.keys = self.queries if keys is queries else keys.by_head(n_heads)
        widths = [group.shape[1] for group in queries.groups]
        widths = widths * len(keys.groups) if len(widths) == 1 else widths
        self.shapes: list[tuple[int, int, int]] = []
        self.bias: list[Tensor] = []
        for group, width in zip(keys.groups, widths, strict=True):
            b, length = group.shape
            hidden = (group == 0)[:, None, :, None].expand(b, n_heads, length, 1).reshape(-1, length, 1)
            if causal:
                place = torch.arange(max(length, width), device=group.device)
                hidden = hidden | (place[:length, None] > place[:width])
            self.shapes.append((b * n_heads, width, length))
            self.bias.append(hide(hidden, dtype))
