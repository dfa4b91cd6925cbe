"""What the trainer iterates over: RecBole's loader for RecBole's models, ours for ours."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import recbole_ra.bridge.compat  # noqa: F401  (before recbole)

# isort: split
import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.utils import create_samplers
from torch import Tensor

from recbole_ra.bridge.augmented import Retrieved
from recbole_ra.bridge.config import RaConfig
from recbole_ra.bridge.dataset import CompactDataset
from recbole_ra.bridge.recommenders import Fields
from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest, digest_bytes
from recbole_ra.models.backbone import Backbone
from recbole_ra.sequences.batching import VisitBatches
from recbole_ra.sequences.prefixes import Prefixes
from recbole_ra.sequences.table import IntArray, places


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set; validation or test may be empty."""

    whole: CompactDataset
    train: CompactDataset
    valid: CompactDataset
    test: CompactDataset

    @classmethod
    def load(cls, config: RaConfig) -> Splits:
        """Filter and split by RecBole's rules.

        Raises
        ------
        DataError
            If the data set cannot be used, or not with these settings.
        """
        try:
            dataset = CompactDataset(config)
            train, valid, test = dataset.build()
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            # What RecBole says of settings that only the data can prove wrong.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"data set '{config.dataset}' cannot be loaded with these settings: {reason}; check the "
                "settings of columns, filters and splits"
            ) from error
        return cls(dataset, train, valid, test)

    @functools.cached_property
    def vocabulary_digest(self) -> str:
        """Digest of the item tokens in the order of their ids."""
        return digest(self.whole.vocabulary)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of everything that a run reads of the data set, and of how it is split."""
        return digest_bytes(
            self.whole.table.fingerprint().encode(),
            self.vocabulary_digest.encode(),
            *(split.prefixes.flat_position.tobytes() for split in (self.train, self.valid, self.test)),
            *self.whole.feature_bytes(),
        )


class _SeededTrainDataLoader(TrainDataLoader):
    """RecBole's training loader; epoch ``e`` is shuffled from ``(seed, e)`` so that it can be resumed."""

    epoch = 0

    def __iter__(self) -> Any:
        self.generator.manual_seed(self.config["seed"] * 1_000_003 + self.epoch)
        self.epoch += 1
        return super().__iter__()


def train_batches(config: RaConfig, splits: Splits, backbone: Backbone | None, train: CompactDataset) -> Any:
    """Batches for training a backbone: of ours, or RecBole's own loader for a model of RecBole's.

    ``train`` is the training split or what was regenerated from it; negative samples avoid what the
    user has in the original one.
    """
    if backbone is None:
        sampler, _, _ = create_samplers(config, splits.whole, [splits.train, splits.valid, splits.test])
        return _SeededTrainDataLoader(config, train, sampler, shuffle=config["shuffle"])
    return visit_batches(config, train.prefixes, backbone)


def visit_batches(config: RaConfig, rows: Prefixes, backbone: Backbone) -> VisitBatches:
    """Batches of rows for a backbone of ours."""
    return VisitBatches(
        rows,
        batch_size=config["train_batch_size"],
        positions_per_visit=config.feed.positions_per_visit if backbone.causal else 1,
        n_groups=config.feed.length_groups,
        seed=config.seed_value,
        with_positives=backbone.needs_positives,
    )


@dataclass
class EvalBatch:
    """Queries with what the ranking needs to know about them.

    Attributes
    ----------
    query : Interaction or Retrieved
    rows : int64 array, shape [B]
        Which rows of the split these are.
    targets : int64 Tensor, shape [B]
    history_row, history_item : int64 Tensor, shape [H]
        Each item of the user's own history once, with the row of the batch that it belongs to.
    """

    query: Any
    rows: IntArray
    targets: Tensor
    history_row: Tensor
    history_item: Tensor


class EvalBatches:
    """One pass over a split, rows of like length together.

    Parameters
    ----------
    dataset : CompactDataset
    fields : Fields
    batch_size : int
    trim : bool
        Cut histories to the longest of the batch; for encoders to which trailing padding means nothing.
    retrieved : Retrieved, optional
        States and neighbours of every row, where they are constants.
    """

    def __init__(
        self,
        dataset: CompactDataset,
        fields: Fields,
        *,
        batch_size: int,
        trim: bool,
        retrieved: Retrieved | None = None,
    ) -> None:
        self.dataset = dataset
        self.fields = fields
        self.batch_size = batch_size
        self.trim = trim
        self.retrieved = retrieved
        self.prefixes = dataset.prefixes
        self.order = np.argsort(self.prefixes.lengths, kind="stable")
        self.targets = torch.from_numpy(self.prefixes.targets)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        for first in range(0, len(self.order), self.batch_size):
            rows = self.order[first : first + self.batch_size]
            row, item = _distinct_histories(self.prefixes[rows])
            yield EvalBatch(
                self._query(rows),
                rows,
                self.targets[rows],
                torch.from_numpy(row),
                torch.from_numpy(item),
            )

    def _query(self, rows: IntArray) -> Any:
        if self.retrieved is not None:
            return self.retrieved[torch.from_numpy(rows)]
        return cut_rows(self.dataset, rows, self.fields, trim=self.trim)


def cut_rows(dataset: CompactDataset, rows: IntArray, fields: Fields, *, trim: bool) -> Any:
    """RecBole's ``Interaction`` for some rows of a split."""
    interaction = dataset[rows]
    if trim:
        longest = int(interaction[fields.length].max())
        interaction.interaction[fields.history] = interaction[fields.history][:, :longest]
    return interaction


def _distinct_histories(prefixes: Prefixes) -> tuple[IntArray, IntArray]:
    """Each item of each row's whole history once: rows and items, shape [H] each."""
    table, count = prefixes.table, prefixes.position
    place = places(table.offsets[prefixes.sequence], count)
    row = np.repeat(np.arange(len(prefixes)), count)
    return np.divmod(np.unique(row * table.n_items + table.items[place]), table.n_items)
