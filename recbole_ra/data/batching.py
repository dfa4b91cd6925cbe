"""Training batches: targets of many random users, grouped by the length of their histories.

A *pass* encodes one stretch of one sequence and predicts ``targets_per_pass`` of its items. With 1, each
pass is a prefix row, which any encoder can read; with more, a causal encoder predicts several targets of
a user at once. Which targets share a pass, and which passes share a batch, is drawn anew each epoch.

Inside a batch the passes are grouped by length, and each group is padded only to its own longest pass.
Groups never decide which targets are optimised together, because the batch is one step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_ra.core.seeding import stream
from recbole_ra.data.positives import SameTarget
from recbole_ra.data.table import IntArray, Prefixes, gather_windows, offsets_of, places


class Movable:
    """Base of dataclasses whose tensors move to a device together."""

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(moved(part) for part in value)
            return value.to(device) if hasattr(value, "to") else value

        return type(self)(**{name: moved(value) for name, value in vars(self).items()})


@dataclass
class LengthGroup(Movable):
    """Passes of like length, right-padded to the longest.

    Attributes
    ----------
    items : int64, shape [b, L]
    lengths : int64, shape [b]
    at : int64, shape [b, P]
        Positions of each pass whose states predict targets; unused places are 0.
    slot : int64, shape [t]
        Where in the flattened ``[b, P]`` the state of each of the group's targets stands.
    origin : uint8, shape [b]
        An :class:`Origin` of the sequence of each pass.
    first : int64, shape [b], optional
        Position in a longer history where each pass begins; by default 0.
    """

    items: Tensor
    lengths: Tensor
    at: Tensor
    slot: Tensor
    origin: Tensor
    first: Tensor | None = None


@dataclass
class TrainBatch(Movable):
    """One optimisation step.

    Attributes
    ----------
    groups : list of LengthGroup
    targets : int64, shape [T]
        Item to predict; the groups' targets one after another.
    rows : int64, shape [T]
        Which training row each target is (index into the :class:`Prefixes`).
    positives : list of LengthGroup
        For each target another prefix with the same target (itself where there is no other), in
        an order of its own; empty if the model does not ask for it.
    positive_order : int64, shape [T]
        Where the positive of each target stands among the positives' states.
    weights : float32, shape [T], optional
        Of each target in the loss; by default all are 1.
    weigh : callable, optional
        Gives the weights from the states that predict the targets, [T, D] -> [T].
    """

    groups: list[LengthGroup]
    targets: Tensor
    rows: Tensor
    positives: list[LengthGroup] = field(default_factory=list)
    positive_order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    weights: Tensor | None = None
    weigh: Callable[[Tensor], Tensor] | None = None


@dataclass
class Shard(Movable):
    """A process's part of an optimisation step that several processes share.

    Attributes
    ----------
    batch : TrainBatch or Interaction
        Never empty: a process for which nothing is left repeats a part, with a share of 0.
    share : float
        Its targets as a share of the step's, times the processes: the mean over the processes of
        share times mean loss is the mean loss of the step.
    """

    batch: Any
    share: float


@dataclass(eq=False)
class SequenceBatches:
    """Iterates over one epoch of batches; every target exactly once.

    Attributes
    ----------
    prefixes : Prefixes
        The training rows.
    batch_size : int
        Targets a batch (a batch ends with the pass that reaches it), or passes.
    targets_per_pass : int
        Most targets that share one pass; 1 gives prefix rows. Targets of one sequence are split
        into nearly equal random parts.
    n_groups : int
        Length groups inside a batch.
    seed : int
        Epoch ``e`` is drawn from the stream ``(seed, "batches", e)``.
    with_positives : bool
        Whether to draw, for each target, another prefix with the same target (DuoRec).
    weights : float32 array, shape [rows], optional
        Of each training row in the loss; by default all are 1.
    batch_of : {"targets", "passes"}
        What ``batch_size`` counts.
    floats : bool array, shape [sequences], optional
        Sequences whose passes begin at a random position instead of the first: as many items before them as
        before a random target of the other sequences, as far as the history has room.
    epoch : int
        The epoch that is drawn next.

    Notes
    -----
    In a sequence longer than ``max_length``, targets share a pass only with targets of the same
    block of ``max_length // 2`` positions, and the pass ends before the last of them: a target then
    sees at least ``min(position, max_length - max_length // 2 + 1)`` of its latest items.
    """

    prefixes: Prefixes
    _: KW_ONLY
    batch_size: int
    targets_per_pass: int
    n_groups: int
    seed: int
    with_positives: bool = False
    weights: NDArray[np.float32] | None = None
    batch_of: str = "targets"
    floats: NDArray[np.bool_] | None = None
    epoch: int = 0

    def __post_init__(self) -> None:
        self._block, self._block_size = _blocks(self.prefixes)
        self._same_target = SameTarget(self.prefixes.targets) if self.with_positives else None

    def __len__(self) -> int:
        counted = len(self.prefixes) if self.batch_of == "targets" else self.n_passes
        return max(1, min(-(-counted // self.batch_size), self.n_passes))

    @property
    def n_passes(self) -> int:
        """Passes of an epoch."""
        return int((-(-self._block_size // self.targets_per_pass)).sum())

    def __iter__(self) -> Iterator[TrainBatch]:
        for shard in self.shards(0, 1):
            yield shard.batch

    def shards(self, rank: int, world: int) -> Iterator[Shard]:
        """Iterate over one process's part of the epoch: every ``world``-th pass of each batch."""
        rng = stream(self.seed, "batches", self.epoch)
        self.epoch += 1
        rows, pass_start = self._draw_passes(rng)
        fixed = None if self.floats is None else self.prefixes.position[~self.floats[self.prefixes.sequence]]
        for first, last in itertools.pairwise(self._cuts(pass_start)):
            has_own = first + rank < last
            own = np.arange(first + rank, last, world) if has_own else np.array([first])
            count = pass_start[own + 1] - pass_start[own]
            batch = self._make_batch(rows[places(pass_start[own], count)], offsets_of(count), rng, fixed)
            share = world * count.sum() / (pass_start[last] - pass_start[first])
            yield Shard(batch, float(share) if has_own else 0.0)

    def _cuts(self, pass_start: IntArray) -> IntArray:
        """Return the first pass of each batch, and the number of passes; no batch is empty.

        Nearly the same number in each batch; no pass is cut in two.
        """
        passes = len(pass_start) - 1
        n = min(len(self), passes)
        if self.batch_of == "passes":
            return np.linspace(0, passes, n + 1).astype(np.int64)
        cuts = np.searchsorted(pass_start, np.linspace(0, pass_start[-1], n + 1))
        number = np.arange(n + 1)  # a pass may hold more targets than a batch
        cuts = np.maximum.accumulate(cuts - number) + number
        return np.minimum(cuts, passes - n + number)

    def _draw_passes(self, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Rows in pass order and the start of each pass (one more than passes)."""
        n = len(self.prefixes)
        if self.targets_per_pass == 1:
            return rng.permutation(n), np.arange(n + 1)
        order = np.argsort(self._block + rng.random(n), kind="stable")
        block = self._block[order]
        rank_in_block = np.arange(n) - offsets_of(self._block_size)[block]
        passes_of_block = -(-self._block_size // self.targets_per_pass)
        first_pass = offsets_of(passes_of_block)
        pass_of_row = first_pass[block] + rank_in_block % passes_of_block[block]
        pass_of_row = rng.permutation(first_pass[-1])[pass_of_row]
        by_pass = np.argsort(pass_of_row, kind="stable")
        sizes = np.bincount(pass_of_row, minlength=int(first_pass[-1]))
        return order[by_pass], offsets_of(sizes)

    def _make_batch(
        self, rows: IntArray, pass_start: IntArray, rng: np.random.Generator, fixed: IntArray | None
    ) -> TrainBatch:
        first = None if fixed is None else self._draw_first(rows, pass_start, fixed, rng)
        groups, order = self._groups(rows, pass_start, first)
        rows = rows[order]
        batch = TrainBatch(groups, torch.from_numpy(self.prefixes[rows].targets), torch.from_numpy(rows))
        if self.weights is not None:
            batch.weights = torch.from_numpy(self.weights[rows])
        if self._same_target is not None:
            positives = self._same_target.draw(rows, rng)
            batch.positives, order = self._groups(positives, np.arange(len(rows) + 1))
            batch.positive_order = torch.from_numpy(np.argsort(order, kind="stable"))
        return batch

    def _draw_first(
        self, rows: IntArray, pass_start: IntArray, fixed: IntArray, rng: np.random.Generator
    ) -> IntArray:
        """Draw the position where each pass begins, shape [passes]: those of ``fixed`` for what floats."""
        assert self.floats is not None, "something floats"
        length = np.maximum.reduceat(self.prefixes[rows].lengths, pass_start[:-1])
        before = rng.choice(fixed, len(length)) if len(fixed) else np.zeros_like(length)
        is_floating = self.floats[self.prefixes.sequence[rows[pass_start[:-1]]]]
        return np.where(is_floating, np.minimum(before, self.prefixes.max_length - length), 0)

    def _groups(
        self, rows: IntArray, pass_start: IntArray, first: IntArray | None = None
    ) -> tuple[list[LengthGroup], IntArray]:
        """Group passes, which begin at ``first``, by length; also the order in which they hold ``rows``."""
        prefixes = self.prefixes[rows]
        target = prefixes.flat_position
        end = np.maximum.reduceat(target, pass_start[:-1])
        length = np.maximum.reduceat(prefixes.lengths, pass_start[:-1])

        by_length = np.argsort(length, kind="stable")
        start, length = (end - length)[by_length], length[by_length]
        pass_of_row = np.repeat(np.argsort(by_length), np.diff(pass_start))
        order = np.argsort(pass_of_row, kind="stable")
        pass_of_row, target = pass_of_row[order], target[order]
        state = target - 1 - start[pass_of_row]
        first_row = np.searchsorted(pass_of_row, np.arange(len(pass_start)))
        origin = prefixes.table.origin[prefixes.sequence[pass_start[:-1]]][by_length]
        nth = np.arange(len(rows)) - first_row[pass_of_row]

        groups = []
        for a, b in itertools.pairwise(least_padding(length, self.n_groups)):
            inside = slice(first_row[a], first_row[b])
            row, column = pass_of_row[inside] - a, nth[inside]
            at = np.zeros((b - a, column.max() + 1), dtype=np.int64)
            at[row, column] = state[inside]
            items = gather_windows(prefixes.table.items, start[a:b], length[a:b])
            slot = row * at.shape[1] + column
            group = LengthGroup(*map(torch.from_numpy, (items, length[a:b], at, slot, origin[a:b])))
            group.first = None if first is None else torch.from_numpy(first[by_length[a:b]])
            groups.append(group)
        return groups, order


def _blocks(prefixes: Prefixes) -> tuple[IntArray, IntArray]:
    """Number the blocks whose targets may share a pass: block of each row, rows of each block."""
    longest = prefixes.max_length
    late = prefixes.position - longest - 1
    part = np.where(late < 0, 0, 1 + late // max(longest // 2, 1))
    keys = prefixes.sequence * (int(part.max(initial=0)) + 1) + part
    _, block, size = np.unique(keys, return_inverse=True, return_counts=True)
    return block.reshape(-1), size


def least_padding(lengths: IntArray, n_groups: int) -> IntArray:
    """Cut rows sorted by length into groups, each padded to its longest row, with the least padding.

    Lengths are long-tailed, so groups of equal size leave twice as much of it.

    Parameters
    ----------
    lengths : int64 array, shape [rows]
        Rising.
    n_groups : int
        Most groups.

    Returns
    -------
    int64 array, shape [groups + 1]
        First row of each group, and the number of rows.
    """
    width, first = np.unique(lengths, return_index=True)
    bounds = np.append(first, len(lengths))
    # area[i, j]: places of a group of the i-th to the j-th distinct length.
    area = (bounds[1:] - bounds[:-1, None]) * width.astype(np.float64)
    area[np.tril_indices(len(width), -1)] = np.inf
    best, cuts = area[0], []
    for _ in range(min(n_groups, len(width)) - 1):
        split = best[:-1, None] + area[1:]  # the last group begins with the length after the i-th
        cuts.append(split.argmin(0))
        best = split.min(0)
    edges, last = [len(width)], len(width) - 1
    for cut in reversed(cuts):
        edges.append(int(cut[last]) + 1)
        last = int(cut[last])
    return bounds[np.array([0, *reversed(edges)])]
