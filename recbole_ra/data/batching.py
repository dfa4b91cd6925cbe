"""Training batches: many random users, few positions of each, like lengths side by side.

One scheme covers the whole range between RecBole's prefix rows and one pass over whole sequences.
A *pass* encodes one stretch of one sequence and predicts ``targets_per_pass`` of its items:

* 1: every row is a prefix of its own (any encoder);
* more: causal encoders share one pass between several targets of the same user.

Which targets share a pass_of_row, and which passes share a batch, is drawn anew each epoch. Inside a
batch the passes are grouped by length, so that each group is padded only to its own maximum; a
group never decides which targets are optimised together, because the batch is one step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_ra.core.seeding import stream
from recbole_ra.data.prefixes import Prefixes
from recbole_ra.data.table import IntArray, gather_windows, places


@dataclass
class LengthGroup:
    """Visits of like length, right-padded to the longest.

    Attributes
    ----------
    items : int64, shape [b, L]
    lengths : int64, shape [b]
    at : int64, shape [b, P]
        Positions of each pass whose states predict targets; unused places are 0.
    slot : int64, shape [t]
        Where in the flattened ``[b, P]`` the state of each of the group's targets stands.
    """

    items: Tensor
    lengths: Tensor
    at: Tensor
    slot: Tensor

    def to(self, device: torch.device | str) -> LengthGroup:
        """Move every tensor to a device."""
        return LengthGroup(
            self.items.to(device), self.lengths.to(device), self.at.to(device), self.slot.to(device)
        )


@dataclass
class TrainBatch:
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
    """

    groups: list[LengthGroup]
    targets: Tensor
    rows: Tensor
    positives: list[LengthGroup] = field(default_factory=list)
    positive_order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    weights: Tensor | None = None

    def to(self, device: torch.device | str) -> TrainBatch:
        """Move every tensor to a device."""
        return TrainBatch(
            [group.to(device) for group in self.groups],
            self.targets.to(device),
            self.rows.to(device),
            [group.to(device) for group in self.positives],
            self.positive_order.to(device),
            None if self.weights is None else self.weights.to(device),
        )


@dataclass
class Shard:
    """A process's part of an optimisation step that several processes share.

    Attributes
    ----------
    batch : TrainBatch or Interaction
        Never empty: where there are fewer rows than processes, one of them with a share of 0.
    share : float
        Its targets as a share of the step's, times the processes: the mean over the processes of
        share times mean loss is the mean loss of the step.
    """

    batch: Any
    share: float

    def to(self, device: torch.device | str) -> Shard:
        """Move the batch to a device."""
        return Shard(self.batch.to(device), self.share)


class SequenceBatches:
    """Iterates over one epoch of batches; every target exactly once.

    Parameters
    ----------
    prefixes : Prefixes
        The training rows.
    batch_size : int
        Targets a batch (a batch ends with the pass that reaches it).
    targets_per_pass : int
        Most targets that share one pass; 1 gives prefix rows. Targets of one sequence are split
        into nearly equal random parts.
    n_groups : int
        Length groups inside a batch.
    with_positives : bool
        Whether to draw, for each target, another prefix with the same target (DuoRec).
    seed : int
        Epoch ``e`` is drawn from the stream ``(seed, "batches", e)``.

    Notes
    -----
    In a sequence longer than ``max_length``, targets share a pass only with targets of the same
    block of ``max_length // 2`` positions, and the window ends at the last of them: a target then
    sees at least ``min(position, max_length - max_length // 2 + 1)`` of its latest items.
    """

    def __init__(
        self,
        prefixes: Prefixes,
        *,
        batch_size: int,
        targets_per_pass: int,
        n_groups: int,
        seed: int,
        with_positives: bool = False,
    ) -> None:
        self.prefixes = prefixes
        self.batch_size = batch_size
        self.targets_per_pass = targets_per_pass
        self.n_groups = n_groups
        self.seed = seed
        self.epoch = 0
        self.shuffle = True
        self._block, self._block_size = self._blocks()
        self._same_target = SameTarget(prefixes.targets) if with_positives else None

    def _blocks(self) -> tuple[IntArray, IntArray]:
        """Number the blocks whose targets may share a pass: id of each row, rows of each block."""
        p = self.prefixes
        stride = max(p.max_length // 2, 1)
        part = np.where(p.position <= p.max_length, 0, 1 + (p.position - p.max_length - 1) // stride)
        keys = p.sequence * (int(part.max(initial=0)) + 1) + part
        _, block, size = np.unique(keys, return_inverse=True, return_counts=True)
        return block.reshape(-1), size

    def __len__(self) -> int:
        return max(1, -(-len(self.prefixes) // self.batch_size))

    def __iter__(self) -> Iterator[TrainBatch]:
        rng, rows, pass_start, bounds = self._draw_epoch()
        for first, last in itertools.pairwise(bounds):
            yield self._make_batch(
                rows[pass_start[first] : pass_start[last]], pass_start[first : last + 1], rng
            )

    def shards(self, rank: int, world: int) -> Iterator[Shard]:
        """The same epoch as one of several processes sees it: every n-th pass of each batch."""
        rng, rows, pass_start, bounds = self._draw_epoch()
        for first, last in itertools.pairwise(bounds):
            passes = np.arange(first, last)
            own = passes[rank::world] if last - first > rank else passes[:1]
            count = np.diff(pass_start)[own]
            batch = self._make_batch(
                rows[places(pass_start[own], count)], np.concatenate([[0], np.cumsum(count)]), rng
            )
            share = world * count.sum() / (pass_start[last] - pass_start[first])
            yield Shard(batch, float(share) if last - first > rank else 0.0)

    def _draw_epoch(self) -> tuple[np.random.Generator, IntArray, IntArray, IntArray]:
        """The epoch's generator, rows in pass order, start of each pass_of_row, first pass of each batch."""
        rng = stream(self.seed, "batches", self.epoch)
        self.epoch += 1
        rows, pass_start = self._draw_passes(rng)
        return rng, rows, pass_start, self._batch_bounds(pass_start, len(rows))

    def _draw_passes(self, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Rows in pass order and the start of each pass (one more than passes)."""
        n = len(self.prefixes)
        if self.targets_per_pass == 1:
            return rng.permutation(n), np.arange(n + 1)
        order = np.argsort(self._block + rng.random(n), kind="stable")
        block = self._block[order]
        first = np.concatenate([[0], np.cumsum(self._block_size)])[:-1]
        rank = np.arange(n) - first[block]
        passes_of_block = -(-self._block_size // self.targets_per_pass)
        first_pass = np.concatenate([[0], np.cumsum(passes_of_block)])
        pass_of_row = first_pass[block] + rank % passes_of_block[block]
        shuffled = rng.permutation(first_pass[-1])[pass_of_row]
        by_pass = np.argsort(shuffled, kind="stable")
        sizes = np.bincount(shuffled, minlength=int(first_pass[-1]))
        return order[by_pass], np.concatenate([[0], np.cumsum(sizes)])

    def _batch_bounds(self, pass_start: IntArray, n_rows: int) -> IntArray:
        """First pass of each batch, cutting where the count of targets passes the batch size."""
        cuts = np.searchsorted(pass_start, np.linspace(0, n_rows, len(self) + 1))
        return np.unique(np.concatenate([[0], cuts[1:-1], [len(pass_start) - 1]]))

    def _make_batch(self, rows: IntArray, pass_start: IntArray, rng: np.random.Generator) -> TrainBatch:
        groups, order = self._groups(rows, pass_start - pass_start[0])
        rows = rows[order]
        targets = torch.from_numpy(self.prefixes[rows].targets)
        batch = TrainBatch(groups, targets, torch.from_numpy(rows))
        if self._same_target is not None:
            self._add_positives(batch, self._same_target.draw(rows, rng))
        return batch

    def _add_positives(self, batch: TrainBatch, rows: IntArray) -> None:
        batch.positives, order = self._groups(rows, np.arange(len(rows) + 1))
        batch.positive_order = torch.from_numpy(np.argsort(order, kind="stable"))

    def _groups(self, rows: IntArray, pass_start: IntArray) -> tuple[list[LengthGroup], IntArray]:
        """Cut passes into groups of like length; also the order in which the groups hold ``rows``."""
        p = self.prefixes
        n_passes = len(pass_start) - 1
        pass_of_row = np.repeat(np.arange(n_passes), np.diff(pass_start))
        flat = p.table.offsets[p.sequence[rows]] + p.position[rows]
        end = np.maximum.reduceat(flat, pass_start[:-1])
        length = np.maximum.reduceat(p.lengths[rows], pass_start[:-1])

        by_length = np.argsort(length, kind="stable")
        rank = np.empty(n_passes, dtype=np.int64)
        rank[by_length] = np.arange(n_passes)
        order = np.argsort(rank[pass_of_row], kind="stable")
        place, flat = rank[pass_of_row][order], flat[order]
        end, length = end[by_length], length[by_length]

        groups = []
        edges = least_padding(length, self.n_groups)
        for a, b in itertools.pairwise(edges):
            inside = slice(*np.searchsorted(place, [a, b]))
            pass_of_row = place[inside] - a
            column = flat[inside] - (end - length)[place[inside]] - 1
            first = np.searchsorted(pass_of_row, np.arange(b - a))
            nth = np.arange(len(pass_of_row)) - first[pass_of_row]
            at = np.zeros((b - a, int(nth.max()) + 1), dtype=np.int64)
            at[pass_of_row, nth] = column
            groups.append(
                LengthGroup(
                    torch.from_numpy(gather_windows(p.table.items, end[a:b] - length[a:b], length[a:b])),
                    torch.from_numpy(length[a:b]),
                    torch.from_numpy(at),
                    torch.from_numpy(pass_of_row * at.shape[1] + nth),
                )
            )
        return groups, order


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


class SameTarget:
    """Draws, for a row, another row with the same target.

    Parameters
    ----------
    targets : int64 array, shape [rows]
    """

    def __init__(self, targets: IntArray) -> None:
        self._by_target = np.argsort(targets, kind="stable")
        self._place = np.empty_like(self._by_target)
        self._place[self._by_target] = np.arange(len(targets))
        _, inverse, count = np.unique(targets, return_inverse=True, return_counts=True)
        first = np.concatenate([[0], np.cumsum(count)])[:-1]
        self._first, self._count = first[inverse], count[inverse]

    def draw(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """One uniform other row for each row, or the row itself where its target occurs once."""
        first, count = self._first[rows], self._count[rows]
        step = 1 + np.floor(rng.random(len(rows)) * (count - 1)).astype(np.int64)
        place = first + (self._place[rows] - first + step) % count
        return self._by_target[place]
