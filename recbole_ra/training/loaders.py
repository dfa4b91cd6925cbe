"""What the trainer iterates over: RecBole's loader for RecBole's models, ours for ours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.utils import create_samplers
from torch import Tensor

from recbole_ra.data.batching import SequenceBatches
from recbole_ra.data.dataset import CompactDataset, Fields, Splits
from recbole_ra.data.table import IntArray, Origin, Prefixes, places
from recbole_ra.data.training_part import RegeneratedDataset
from recbole_ra.models.backbone import Backbone
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.evaluation import rows_scored_together


class _SeededTrainDataLoader(TrainDataLoader):
    """RecBole's training loader; epoch ``e`` is shuffled from ``(seed, e)`` so that it can be resumed."""

    epoch = 0

    def __iter__(self) -> Any:
        self.generator.manual_seed(self.config["seed"] * 1_000_003 + self.epoch)
        self.epoch += 1
        return super().__iter__()


def train_batches(config: RaConfig, splits: Splits, backbone: Backbone | None, train: CompactDataset) -> Any:
    """Make the batches that train a backbone; of a model of RecBole's, its own loader.

    ``train`` is the training split or what was regenerated from it; negative samples avoid the target, and
    with ``repeatable=False`` what the user has in the original one.
    """
    if backbone is None:
        sampler, _, _ = create_samplers(config, splits.whole, [splits.train, splits.valid, splits.test])
        return _SeededTrainDataLoader(config, train, sampler, shuffle=config["shuffle"])
    batches = sequence_batches(config, train.prefixes, backbone)
    if isinstance(train, RegeneratedDataset):
        if train.weights is not None:
            batches.weights = train.weights[batches.prefixes.sequence]
        if config.regeneration.position_offset == "random":
            batches.floats = train.table.origin != Origin.ORIGINAL
    return batches


def sequence_batches(config: RaConfig, rows: Prefixes, backbone: Backbone) -> SequenceBatches:
    """Make batches of rows for a backbone of ours."""
    return SequenceBatches(
        rows,
        batch_size=config["train_batch_size"],
        targets_per_pass=config.feed.targets_per_pass if backbone.causal else 1,
        n_groups=config.feed.length_groups or (8 if config.torch_device.type == "cpu" else 1),
        seed=config.seed_value,
        with_positives=backbone.needs_positives,
        batch_of=config.feed.batch_of,
    )


@dataclass
class EvalBatch:
    """Queries with what the ranking needs to know about them.

    Attributes
    ----------
    query : Interaction, or what ``query`` made
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
        Rows at most; as :func:`rows_scored_together` says, fewer if there are many items.
    trim : bool
        Cut histories to the longest of the batch; for encoders that ignore trailing padding.
    query : callable, optional
        Turns rows of the split, int64 array, shape [B], into what the recommender ranks for; by default
        an ``Interaction``.
    before : callable, optional
        Called as each pass begins.
    only : int64 array, shape [R], optional
        Rows of the split that take part; by default all.
    """

    def __init__(
        self,
        dataset: CompactDataset,
        fields: Fields,
        *,
        batch_size: int,
        trim: bool,
        query: Callable[[IntArray], Any] | None = None,
        before: Callable[[], None] | None = None,
        only: IntArray | None = None,
    ) -> None:
        self.dataset = dataset
        self.before = before
        self.query = query or functools.partial(cut_rows, dataset, fields=fields, trim=trim)
        self.prefixes = dataset.prefixes
        self.batch_size = rows_scored_together(batch_size, self.prefixes.table.n_items)
        self.order = by_length(self.prefixes) if only is None else only[by_length(self.prefixes[only])]
        self.targets = torch.from_numpy(self.prefixes.targets)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    @property
    def users(self) -> IntArray:
        """Whose each row is, in the order of ranking, shape [rows]: the number of its sequence."""
        return self.prefixes.sequence[self.order]

    def __iter__(self) -> Iterator[EvalBatch]:
        if self.before is not None:
            self.before()
        for first in range(0, len(self.order), self.batch_size):
            rows = self.order[first : first + self.batch_size]
            row, item = _distinct_histories(self.prefixes[rows])
            yield EvalBatch(
                self.query(rows),
                rows,
                self.targets[rows],
                torch.from_numpy(row),
                torch.from_numpy(item),
            )


def by_length(prefixes: Prefixes) -> IntArray:
    """Return the order in which rows are ranked: of like length together, to waste no padding."""
    return np.argsort(prefixes.lengths, kind="stable")


def cut_rows(dataset: CompactDataset, rows: IntArray, fields: Fields, *, trim: bool) -> Any:
    """Return RecBole's ``Interaction`` for some rows of a split."""
    interaction = dataset[rows]
    if trim:
        longest = int(interaction[fields.length].max())
        interaction.interaction[fields.history] = interaction[fields.history][:, :longest]
    return interaction


def _distinct_histories(prefixes: Prefixes) -> tuple[IntArray, IntArray]:
    """Collect each item of each row's whole history once: rows and items, shape [H] each."""
    table, count = prefixes.table, prefixes.position
    place = places(table.offsets[prefixes.sequence], count)
    row = np.repeat(np.arange(len(prefixes)), count)
    return np.divmod(np.unique(row * table.n_items + table.items[place]), table.n_items)
