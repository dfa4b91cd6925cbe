"""What the scores of held-out rows follow from, whatever the weights of memories are.

Shapes: ``B`` rows, ``b`` of them, ``N`` items, ``L`` places of a history, ``V`` shares of a mixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recbole_ra.models.history import ItemOffsets
from recbole_ra.retrieval.mixture import Mixture
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.retrieval.retrieved import Retrieved

Setting = Mapping[str, float]

CPU_BLOCK_ELEMENTS = 1 << 18
GPU_BLOCK_ELEMENTS = 1 << 26
"""Scores made at once; on a CPU those that stay in the cache."""


def set_weights(recommender: RetrievalRecommender, setting: Setting) -> None:
    """Score with these weights from now on."""
    fusion, mixture = recommender.fusion, recommender.mixture
    if fusion is not None and "alpha" in setting:
        fusion.alpha.fill_(setting["alpha"])
    if mixture is not None and "mixture_weight" in setting:
        mixture.weight.fill_(setting["mixture_weight"])
    if mixture is not None and mixture.parameter in setting:
        mixture.sharpness.fill_(setting[mixture.parameter])


@dataclass(frozen=True)
class LogShares:
    """The shares of a mixture for some rows, one row after another.

    Attributes
    ----------
    row, item : int64 Tensor, shape [V]
    share : Tensor, shape [V]
        Their logs.
    count : int64 Tensor, shape [B]
        How many shares each row has.
    """

    row: Tensor
    item: Tensor
    share: Tensor
    count: Tensor

    def of(self, rows: Tensor) -> LogShares:
        """Keep those of some rows, shape [b] and ascending, which are numbered anew."""
        count = self.count[rows]
        if len(rows) and int(rows[-1] - rows[0]) == len(rows) - 1:  # ascending, so one after another
            first = int(self.count[: int(rows[0])].sum())
            there = slice(first, first + int(count.sum()))
            return LogShares(self.row[there] - rows[0], self.item[there], self.share[there], count)
        row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), count)
        start = self.count.cumsum(0)[rows] - count
        before = count.cumsum(0) - count
        place = torch.arange(len(row), device=rows.device) + (start - before)[row]
        return LogShares(row, self.item[place], self.share[place], count)


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows, what they retrieved, and the settings under which they are to be scored.

    Attributes
    ----------
    settings : sequence of mappings
        As :func:`use` takes them, each with the same names.
    query : Retrieved, shape [B]
    read : Tensor, shape [B, D]
        What the memories say, where a setting asks for it.
    logit_shift : Tensor, shape [B, 1]
        See :meth:`Fusion.logit_shift`.
    history : ItemOffsets, shape [B, L]
    """

    recommender: RetrievalRecommender
    settings: Sequence[Setting]
    query: Retrieved
    read: Tensor | None
    logit_shift: Tensor | None
    history: ItemOffsets | None
    _log_shares: dict[float, LogShares] = field(default_factory=dict)

    @classmethod
    def of(cls, recommender: RetrievalRecommender, settings: Sequence[Setting], query: Retrieved) -> HeldOut:
        """Read the memories of some rows."""
        fusion, read, logit_shift = recommender.fusion, None, None
        if fusion is not None and any(_alpha(recommender, setting) < 1 for setting in settings):
            found = recommender.memories(query)
            facts = query.states, found.keys, found.values, found.valid
            read = fusion.read(*facts)
            logit_shift = fusion.logit_shift(*facts, read, recommender.entropy)
        history = recommender.base.history_offsets(query.states, query.histories)
        return cls(recommender, settings, query, read, logit_shift, history)

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, rows: Tensor) -> HeldOut:
        return HeldOut(
            self.recommender,
            self.settings,
            self.query[rows],
            None if self.read is None else self.read[rows],
            None if self.logit_shift is None else self.logit_shift[rows],
            None if self.history is None else self.offsets(rows),
        )

    @property
    def table(self) -> Tensor:
        """Item vectors, shape [N, D]."""
        return self.recommender.item_table

    def offsets(self, rows: Tensor) -> ItemOffsets | None:
        """What the items of the histories of some rows get besides, shape [b, L]."""
        return None if self.history is None else ItemOffsets(*(part[rows] for part in self.history))

    def by_alpha(self) -> dict[float, list[int]]:
        """Places of the settings with each weight of the own state."""
        found: dict[float, list[int]] = {}
        for place, setting in enumerate(self.settings):
            found.setdefault(_alpha(self.recommender, setting), []).append(place)
        return found

    def blocks(self, rows: Tensor, n_items: int) -> Iterator[Tensor]:
        """Give rows whose scores of so many items are made at once."""
        on_cpu = self.table.device.type == "cpu"
        yield from torch.split(
            rows, max(1, (CPU_BLOCK_ELEMENTS if on_cpu else GPU_BLOCK_ELEMENTS) // n_items)
        )

    def mixture(self, setting: Setting) -> Mixture | None:
        """Return the mixture as a setting wants it, None where it is off."""
        set_weights(self.recommender, setting)
        mixture = self.recommender.mixture
        return None if mixture is None or mixture.is_off else mixture

    def mixtures(self, places: Sequence[int]) -> Iterator[Mixture | None]:
        """Give the mixtures of some settings, of those that differ in weight alone one."""
        found = set()
        for place in places:
            mixture = self.mixture(self.settings[place])
            sharpness = None if mixture is None else float(mixture.sharpness)
            if sharpness not in found:
                found.add(sharpness)
                yield mixture

    def log_shares(self, mixture: Mixture) -> LogShares:
        """Return the shares of a mixture as it is set."""
        sharpness = float(mixture.sharpness)
        if sharpness not in self._log_shares:
            row, item, share = mixture.listed(self.query, self.recommender.memories(self.query))
            self._log_shares[sharpness] = LogShares(
                row, item, share, torch.bincount(row, minlength=len(self))
            )
        return self._log_shares[sharpness]

    def named(self, targets: Tensor) -> Tensor:
        """Tell which targets have a share under one of the settings, shape [B]."""
        for setting in self.settings:
            mixture = self.mixture(setting)
            if mixture is not None:
                return mixture.names(self.query, self.recommender.memories(self.query), targets)
        return torch.zeros_like(targets, dtype=torch.bool)

    def logits(self, rows: Tensor, items: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Score some rows by both states, shape [b, n] each.

        ``items`` are all, or some [n], or one for each row [b, 1].
        """
        sides = (self.query.states, self.read)
        if items is not None and items.dim() == 2:
            vectors = self.table[items[:, 0]]
            own, read = (None if x is None else (x[rows] * vectors).sum(1, keepdim=True) for x in sides)
        else:
            vectors = (self.table if items is None else self.table[items]).T
            own, read = (None if x is None else x[rows] @ vectors for x in sides)
        assert own is not None, "every row has a state"
        return own, read

    def joined(
        self,
        rows: Tensor,
        alpha: float,
        logits: tuple[Tensor, Tensor | None],
        items: Tensor | None = None,
    ) -> Tensor:
        """Join both sides' :meth:`logits` of the same items, shape [b, n]; histories are not looked at."""
        fusion, bias = self.recommender.fusion, self.recommender.item_bias
        scores, read = logits
        if fusion is not None and read is not None:
            logit_shift = None if self.logit_shift is None else self.logit_shift[rows]
            weight = torch.tensor(alpha, dtype=scores.dtype, device=scores.device)
            a, b = fusion.weights(weight, self.query.valid[rows], logit_shift)
            scores = torch.addcmul(scores * a, read, b)
        if bias is not None:
            scores = scores + (bias if items is None else bias[items])
        return scores


def _alpha(recommender: RetrievalRecommender, setting: Setting) -> float:
    """Return the weight of the own state in a setting: the one it names, or as it is."""
    if recommender.fusion is None:
        return 1.0
    return float(setting.get("alpha", recommender.fusion.alpha))
