"""How much the memories may say: chosen on validation, and nothing unless it is better than the backbone.

The backbone's logits ``h E`` and the memories' ``h' E`` are made once for each row; every candidate is a
mixture of them, so that all candidates together cost about as much as validating a few epochs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from recbole_ra.models.history import ItemOffsets
from recbole_ra.retrieval.fusion import Fusion
from recbole_ra.retrieval.mixture import Mixture
from recbole_ra.retrieval.recommender import RetrievalRecommender, Retrieved
from recbole_ra.training.evaluation import PROTOCOLS, of_rows, ranks
from recbole_ra.training.loaders import EvalBatches

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MIXED = (0.7, 0.8, 0.9, 0.95, 0.98)
"""Weights of the backbone that are tried: of a fusion, of a mixture. 1, the backbone, always is."""

TEMPERATURES = (0.02, 0.05, 0.1)
CPU_BLOCK_ELEMENTS = 1 << 20
GPU_BLOCK_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class Candidate:
    """A way to weigh the memories, and what validation says of it.

    Attributes
    ----------
    setting : mapping
        ``alpha``, and ``temperature`` of a mixture.
    value : mapping
        Protocol -> the validation metric.
    gain, error : mapping
        Protocol -> mean difference to the backbone over users, and the standard error of that mean.
    """

    setting: dict[str, float]
    value: dict[str, float]
    gain: dict[str, float]
    error: dict[str, float]

    def helps(self, protocol: str) -> bool:
        """Whether it beats the backbone beyond the standard error, and harms under no protocol beyond it."""
        harms = any(self.gain[name] < -self.error[name] for name in PROTOCOLS)
        return self.gain[protocol] > self.error[protocol] and not harms


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    Attributes
    ----------
    metric, protocol : str
    chosen : mapping
        The setting that was chosen; ``alpha = 1`` is the backbone.
    candidates : list of Candidate
    """

    metric: str
    protocol: str
    chosen: dict[str, float]
    candidates: list[Candidate]

    @property
    def keeps_backbone(self) -> bool:
        """Whether no candidate was better than the backbone."""
        return self.chosen["alpha"] == 1

    def said(self) -> str:
        """Say in one line what was chosen, and why."""
        shown = [
            candidate
            for candidate in self.candidates
            if (candidate.setting["alpha"] < 1 if self.keeps_backbone else candidate.setting == self.chosen)
        ]
        best = max(shown, key=lambda candidate: candidate.gain[self.protocol])
        gains = ", ".join(f"{name} {best.gain[name]:+.4f} ± {best.error[name]:.4f}" for name in PROTOCOLS)
        about = f"alpha {best.setting['alpha']:g}: validation {self.metric} {gains}"
        if self.keeps_backbone:
            return f"the backbone was kept: memories do not help beyond the standard error (best {about})"
        return f"memories help: {about}"

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Choice:
        """Read what :meth:`as_json` gave."""
        return cls(**{**saved, "candidates": [Candidate(**one) for one in saved["candidates"]]})


def candidates_of(fusion: Fusion | Mixture) -> list[dict[str, float]]:
    """List the settings that are tried, the backbone first."""
    if isinstance(fusion, Fusion):
        return [{"alpha": alpha} for alpha in sorted({1.0, *ALPHAS, float(fusion.alpha)}, reverse=True)]
    tried = [{"alpha": alpha, "temperature": heat} for alpha, heat in itertools.product(MIXED, TEMPERATURES)]
    return [{"alpha": 1.0, "temperature": TEMPERATURES[0]}, *tried]


def use(fusion: Fusion | Mixture, setting: Mapping[str, float]) -> None:
    """Weigh the memories that way from now on."""
    for name, value in setting.items():
        getattr(fusion, name).fill_(value)


@torch.no_grad()
def choose(recommender: RetrievalRecommender, batches: EvalBatches, valid_metric: str) -> Choice:
    """Weigh the memories by validation, and use what was chosen.

    Parameters
    ----------
    recommender : RetrievalRecommender
    batches : EvalBatches
        Of the validation rows.
    valid_metric : str
        As the setting; a metric that is no mean over rows is replaced by NDCG.
    """
    recommender.eval()
    settings = candidates_of(recommender.fusion)
    found: list[dict[str, list[Tensor]]] = [{name: [] for name in PROTOCOLS} for _ in settings]
    device = recommender.item_table.device
    for batch in batches:
        query = batch.query.to(device)
        scores = _Scores(recommender, query if isinstance(query, Retrieved) else recommender.query(query))
        for rows in scores.blocks():
            inside = (batch.history_row >= rows.start) & (batch.history_row < rows.stop)
            history = batch.history_row[inside] - rows.start, batch.history_item[inside]
            facts = [part.to(device) for part in (batch.targets[rows], *history)]
            for place, part in enumerate(scores.under(settings, rows)):
                for name, rank in zip(PROTOCOLS, ranks(part, *facts), strict=True):
                    found[place][name].append(rank.cpu())
    protocol = "masked" if valid_metric.lower().startswith("masked_") else "unmasked"
    metric = valid_metric.lower().removeprefix("masked_")
    measured = [{name: of_rows(metric, torch.cat(parts)) for name, parts in one.items()} for one in found]
    candidates = [
        Candidate(setting, _means(values), *_paired(values, measured[0]))
        for setting, values in zip(settings, measured, strict=True)
    ]
    helping = [candidate for candidate in candidates if candidate.helps(protocol)]
    best = max(helping, key=lambda candidate: candidate.value[protocol], default=candidates[0])
    use(recommender.fusion, best.setting)
    return Choice(metric, protocol, best.setting, candidates)


class _Scores:
    """Scores of a batch of queries under any setting, block by block of rows.

    Parameters
    ----------
    recommender : RetrievalRecommender
    query : Retrieved, shape [B]
    """

    def __init__(self, recommender: RetrievalRecommender, query: Retrieved) -> None:
        self.fusion, self.table = recommender.fusion, recommender.item_table
        self.bias = recommender.item_bias
        self.states = query.states
        self.memories = recommender.memories(query)
        self.history = recommender.base.history_offsets(query.states, query.histories)
        facts = self.memories.keys, self.memories.values, self.memories.valid
        if isinstance(self.fusion, Fusion):
            self.read, self.doubt = (
                self.fusion.read(self.states, *facts),
                self.fusion.doubt(self.states, *facts),
            )
        else:
            self.cosines = self.memories.cosines(self.states)

    def blocks(self) -> Iterator[slice]:
        """Give rows whose scores stay in the cache, in blocks."""
        on_cpu = self.table.device.type == "cpu"
        size = max(1, (CPU_BLOCK_ELEMENTS if on_cpu else GPU_BLOCK_ELEMENTS) // len(self.table))
        for first in range(0, len(self.states), size):
            yield slice(first, min(first + size, len(self.states)))

    def under(self, settings: Sequence[Mapping[str, float]], rows: slice) -> Iterator[Tensor]:
        """Give the scores of some rows under each setting, shape [rows, N]."""
        valid = self.memories.valid[rows]
        own = self.states[rows] @ self.table.T
        said = self.read[rows] @ self.table.T if isinstance(self.fusion, Fusion) else None
        for setting in settings:
            scores = own.clone() if isinstance(self.fusion, Mixture) else own
            if said is not None and isinstance(self.fusion, Fusion):
                alpha = torch.tensor(setting["alpha"], dtype=own.dtype, device=own.device)
                doubt = None if self.doubt is None else self.doubt[rows]
                a, b = self.fusion.weights(alpha, valid, doubt)
                scores = torch.addcmul(own * a, said, b)
            if self.bias is not None:
                scores = scores + self.bias
            if self.history is not None:
                part = ItemOffsets(self.history.items[rows], self.history.values[rows])
                scores = part.add_to(scores)
            if isinstance(self.fusion, Mixture):
                use(self.fusion, setting)
                items, cosines = self.memories.items[rows], self.cosines[rows]
                scores = self.fusion.offsets(scores, items, cosines, valid).add_to(scores)
            yield scores


def _means(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(part.mean()) for name, part in values.items()}


def _paired(
    values: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean difference to the backbone, and its standard error, of each protocol."""
    gains = {name: values[name] - before[name] for name in values}
    errors = {name: float(stats.sem(gain)) if len(gain) > 1 else math.inf for name, gain in gains.items()}
    return _means(gains), errors
