"""Data-parallel training: every process trains on its part of each batch, all keep the same weights.

Gradients are averaged by torch's ``DistributedDataParallel``; the process group is the caller's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recbole_ra.data.batching import SequenceBatches, Shard
from recbole_ra.training.evaluation import PROTOCOLS, RankingEvaluator
from recbole_ra.training.trainer import RaTrainer


class _LossOf(nn.Module):
    """A model's loss as a forward pass, which is where ``DistributedDataParallel`` hooks in."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, shard: Shard) -> Tensor | tuple[Tensor, ...]:
        losses = self.model.calculate_loss(shard.batch)
        if isinstance(losses, tuple):
            return tuple(part * shard.share for part in losses)
        return losses * shard.share


class ShardedBatches:
    """What one process trains on: its part of each batch.

    Parameters
    ----------
    batches : SequenceBatches or TrainDataLoader
    rank, world : int
        Which process of how many.
    """

    def __init__(self, batches: Any, rank: int, world: int) -> None:
        self.batches, self.rank, self.world = batches, rank, world
        self.dataset: Any = None

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def epoch(self) -> int:
        """The epoch that is drawn next."""
        return int(self.batches.epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.batches.epoch = epoch

    def __iter__(self) -> Iterator[Shard]:
        if isinstance(self.batches, SequenceBatches):
            yield from self.batches.shards(self.rank, self.world)
            return
        for batch in self.batches:
            rows = torch.arange(self.rank, len(batch), self.world)
            share = len(rows) * self.world / len(batch)
            yield Shard(batch[rows if len(rows) else torch.zeros(1, dtype=torch.int64)], share)


class _NoEvents:
    """What processes after the first write for TensorBoard: nothing."""

    def add_scalar(self, *_: Any) -> None:
        """Take RecBole's call."""

    def add_hparams(self, *_: Any) -> None:
        """Take RecBole's call."""


class DistributedTrainer(RaTrainer):
    """Trains with the other processes of the group, each on its :class:`ShardedBatches`.

    All take the same decisions, since all see the same metrics; the first one writes the files.
    Ranking is shared out too, except where a metric needs more than ranks.
    """

    def __init__(self, config: Any, model: Any, **arguments: Any) -> None:
        super().__init__(config, model, **arguments)
        self.is_first = dist.get_rank() == 0
        self.parallel = DistributedDataParallel(_LossOf(model), find_unused_parameters=True)

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        own = super()._train_epoch(train_data, epoch_idx, loss_func or self.parallel, show_progress)
        parts = torch.tensor(own if isinstance(own, tuple) else [own], device=self.device)
        dist.all_reduce(parts)
        mean = (parts / dist.get_world_size()).tolist()
        return tuple(mean) if isinstance(own, tuple) else mean[0]

    def _keep(self, path: Path, content: dict[str, Any]) -> None:
        if self.is_first:
            super()._keep(path, content)
        dist.barrier()

    def keep_history(self, path: Path) -> None:
        """Write the epochs of the training that has ended, in the first process."""
        if self.is_first:
            super().keep_history(path)
        dist.barrier()

    def _writer(self) -> AbstractContextManager[Any]:
        return super()._writer() if self.is_first else nullcontext(_NoEvents())

    def _random_states(self) -> list[Any]:
        return _gathered(super()._random_states()[0])

    def _set_random_states(self, states: list[Any]) -> None:
        super()._set_random_states([states[dist.get_rank()]])

    def rank(self, eval_data: Any, show_progress: bool = False) -> RankingEvaluator:
        """Score every n-th batch, and gather the ranks of the others."""
        ranking = RankingEvaluator(self.config, self.train_dataset)
        if not ranking.by_rank:
            return super().rank(eval_data, show_progress)
        own = super().rank(_EveryNth(eval_data, dist.get_rank(), dist.get_world_size()), show_progress)
        for name in ("found", "n_ranked"):
            parts = _gathered(getattr(own, name))
            for protocol in PROTOCOLS:
                in_turn = itertools.zip_longest(*(part[protocol] for part in parts))
                getattr(ranking, name)[protocol] = [
                    one for turn in in_turn for one in turn if one is not None
                ]
        return ranking


def _gathered(own: Any) -> list[Any]:
    """Gather what every process has, in order of rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


class _EveryNth:
    """Every n-th batch of an evaluation, beginning with a process's own."""

    def __init__(self, batches: Any, first: int, step: int) -> None:
        self.batches, self.first, self.step = batches, first, step
        self.dataset = batches.dataset

    def __len__(self) -> int:
        return len(range(self.first, len(self.batches), self.step))

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.batches), self.first, None, self.step)
