"""Whether other memories help: other keys, fewer patterns, recent neighbours, several targets ahead.

    python benchmarks/memories.py --dataset=amazon-beauty --variants=patterns --memory_source=both
    python benchmarks/memories.py --dataset=amazon-beauty --variants=recency:0.02,ahead:2,items:64,second:2021

- ``patterns``: a mined pattern that has the least support only with the query's own user, by an occurrence
  that ends at the query's target or after it, is forbidden to the query.
- ``recency:x``: of three times as many neighbours those with the highest cosine, less x times the log of
  one and the months between memory and query, are kept.
- ``ahead:n``: a memory's value is the mean of the next n targets' vectors, each half as heavy as the one
  before it; to its own user the memory is as late as the last of them.
- ``items:n``: neighbours are those with the most similar histories, each the sum of its latest items' vectors
  of width n, a truncated SVD of the positive PMI of items of one sequence (Levy & Goldberg, NIPS 2014).
- ``second:s``: neighbours are those with the most similar states under a second backbone, of seed s.

The last three ask for ``memory_source=enumerate``. Each is fine-tuned as the package's memories are, all
else equal. Printed are validation gains over the backbone with the best weight below 1, and over the
package's memories, with their paired standard errors. Backbones are kept in ``checkpoint_dir`` and reused.
Further words are settings, as on the command line; the default ``fusion`` here is ``raserec``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from command import read_settings, start
from honest_states import measured, said, valid_batches
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from recbole_ra.core.store import ArtifactStore
from recbole_ra.data.dataset import Splits
from recbole_ra.data.table import IntArray, SequenceTable
from recbole_ra.regeneration.mining import MAX_LENGTH, _extend, _frequent
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.retrieval import neighbours, recommender, retrieved
from recbole_ra.retrieval.bank import Memory, bank_stage, encode_rows, indexed, recent_items
from recbole_ra.retrieval.finetuning import raft_stage, retrieve_rows
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.neighbours import Neighbours, Queries
from recbole_ra.retrieval.transitions import MEMORY_DECAY
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.backbone import backbone_stage
from recbole_ra.training.run import Run

MONTH = 30 * 86_400


def owners(table: SequenceTable, window: int, min_support: int) -> tuple[IntArray, IntArray, IntArray]:
    """List the occurrences of patterns with the least support: pattern, sequence, place of the last item."""
    end = np.repeat(table.offsets[1:], table.lengths)
    sequence = np.repeat(np.arange(len(table)), table.lengths)
    first = last = np.arange(len(table.items))
    code, _, _ = _frequent(table.items.astype(np.int64), sequence, min_support)
    before, found = 0, []
    for _ in range(2, min(MAX_LENGTH, window) + 1):
        alive = code >= 0
        first, last, code = _extend(first[alive], last[alive], code[alive], end, window)
        code, _, support = _frequent(code * table.n_items + table.items[last], sequence[first], min_support)
        least = np.flatnonzero(code >= 0)
        least = least[support[code[least]] == min_support]
        owner = sequence[first[least]]
        found.append((before + code[least], owner, last[least] - table.offsets[owner]))
        before += len(support)
    pattern, owner, place = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pattern, owner, place


@contextlib.contextmanager
def patterns(run: Run, mined: MinedPatterns, memory: Memory, _: float) -> Iterator[None]:
    """Forbid patterns that the query's own user makes frequent."""
    settings, n = run.config.patterns, len(mined.patterns)
    pattern, owner, place = owners(run.training_part.numbered, settings.window, settings.min_support)
    key = run.training_part.sequences.users[owner] * n + pattern
    order = np.lexsort((place, key))
    key, first = np.unique(key[order], return_index=True)
    place, start = place[order][first], len(memory.bank) - n
    plain = neighbours._Search.may_see

    def may_see(self: Any, rows: IntArray, ids: IntArray) -> NDArray[np.bool_]:
        allowed = plain(self, rows, ids)
        asked = self.users[rows, None] * n + (ids - start)
        at = np.minimum(np.searchsorted(key, asked), len(key) - 1)
        own = (ids >= start) & (key[at] == asked) & (place[at] >= self.lengths[rows, None])
        return np.asarray(allowed & ~own)

    with mock.patch.object(neighbours._Search, "may_see", may_see):
        yield


@contextlib.contextmanager
def recency(run: Run, mined: MinedPatterns, memory: Memory, weight: float) -> Iterator[None]:
    """Rank the nearest memories again by how recent they are."""
    plain = neighbours.find_neighbours

    def find(bank: Any, states: Any, queries: Queries, *, k: int, scope: str) -> Neighbours:
        found = plain(bank, states, queries, k=3 * k, scope=scope)
        assert queries.times is not None, "every data set has times"
        age = np.log1p(np.abs(queries.times[:, None] - bank.times[found.ids]) / MONTH)
        scores = np.where(found.valid, found.scores - weight * np.nan_to_num(age), -np.inf)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return Neighbours(
            np.take_along_axis(found.ids, best, 1),
            np.take_along_axis(found.valid, best, 1),
            np.take_along_axis(found.scores, best, 1),
        )

    with mock.patch.object(recommender, "find_neighbours", find):
        yield


@contextlib.contextmanager
def ahead(run: Run, mined: MinedPatterns, memory: Memory, n: float) -> Iterator[None]:
    """Let memories tell several targets."""
    rows, lengths = run.train_rows, memory.bank.lengths
    assert len(rows) == len(memory.bank), "ahead asks for memory_source=enumerate"
    last = np.zeros(int(rows.users.max()) + 1, dtype=np.int64)
    np.maximum.at(last, rows.users, rows.position)
    steps = np.arange(int(n))
    inside = rows.position[:, None] + steps <= last[rows.users][:, None]
    place = np.where(inside, rows.flat_position[:, None] + steps, 0)
    told = np.where(inside, rows.table.items[place], 0)
    late = run.splits.valid.prefixes.targets[:, None] * (steps == 0)  # what joins the bank tells its target
    inside = np.concatenate([inside, late > 0])
    items = torch.from_numpy(np.concatenate([told, late]).astype(np.int64))
    weights = torch.from_numpy((inside * 0.5**steps).astype(np.float32))
    weights = (weights / weights.sum(1, keepdim=True))[..., None]

    def values(self: Any) -> torch.Tensor:
        return (self.table[items[self.ids]] * weights[self.ids]).sum(-2)

    memory.bank.lengths = np.minimum(lengths + len(steps) - 1, last[rows.users])
    with mock.patch.object(retrieved.Memories, "values", property(values)):
        yield
    memory.bank.lengths = lengths


@contextlib.contextmanager
def keyed_by(run: Run, memory: Memory, vectors: NDArray[np.float32]) -> Iterator[None]:
    """Search by vectors of the training rows and, after them, the validation rows, shape [rows, width]."""
    plain, parts = neighbours.find_neighbours, (run.train_rows, run.splits.valid.prefixes)
    assert len(run.train_rows) == len(memory.bank), "keys are of memory_source=enumerate"
    users, lengths = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "position")
    )
    longest = int(lengths.max()) + 1
    order = np.argsort(users * longest + lengths)
    known = (users * longest + lengths)[order]

    @functools.lru_cache(maxsize=2)  # without the validation pairs, and with them
    def bank_of(bank: MemoryBank) -> MemoryBank:
        return indexed(run.config, {**bank.columns, "keys": vectors[: len(bank)]})

    def find(bank: MemoryBank, states: Any, queries: Queries, *, k: int, scope: str) -> Neighbours:
        asked = order[np.searchsorted(known, queries.users * longest + queries.lengths)]
        return plain(bank_of(bank), vectors[asked], queries, k=k, scope=scope)

    with mock.patch.object(recommender, "find_neighbours", find):
        yield


@contextlib.contextmanager
def items(run: Run, mined: MinedPatterns, memory: Memory, width: float) -> Iterator[None]:
    """Let the items of the histories find neighbours."""
    recent = np.concatenate([recent_items(part) for part in (run.train_rows, run.splits.valid.prefixes)])
    row, column = np.nonzero(recent)
    weights = (MEMORY_DECAY**column, (row, recent[row, column]))
    histories = sparse.coo_array(weights, shape=(len(recent), run.n_items)).tocsr()
    table = item_vectors(run.training_part.sequences, run.n_items, int(width))
    with keyed_by(run, memory, np.asarray(histories @ table, dtype=np.float32)):
        yield


def item_vectors(table: SequenceTable, n_items: int, width: int) -> NDArray[np.float64]:
    """Factorise how much more often than by chance two items stand in one history, shape [N, width]."""
    sequence = np.repeat(np.arange(len(table)), table.lengths)
    entries = (np.ones(len(sequence)), (sequence, table.items))
    has = sparse.coo_array(entries, shape=(len(table), n_items)).tocsr()
    has.data[:] = 1.0
    joint = sparse.csr_array(has.T @ has)
    joint.setdiag(0.0)
    joint.eliminate_zeros()
    total = joint.sum(axis=1)
    pairs = joint.tocoo()
    pmi = np.log(pairs.data * joint.sum() / (total[pairs.row] * total[pairs.col]))
    positive = sparse.coo_array((np.maximum(pmi, 0.0), (pairs.row, pairs.col)), shape=joint.shape)
    u, s, _ = svds(positive.tocsr(), k=width, random_state=0)
    return np.asarray(u * np.sqrt(s))


@contextlib.contextmanager
def second(run: Run, mined: MinedPatterns, memory: Memory, seed: float) -> Iterator[None]:
    """Let the states of a second backbone find neighbours."""
    config = RaConfig(None, None, (), {**run.config.chosen, "seed": int(seed), "backbone_checkpoint": None})
    other = run.with_settings(config)
    base = backbone_stage(other).recommender(other)
    states = [encode_rows(other, base, split) for split in (run.splits.train, run.splits.valid)]
    with keyed_by(run, memory, torch.cat(states).numpy()):
        yield


KINDS: dict[str, Callable[..., contextlib.AbstractContextManager[None]]] = {
    "patterns": patterns,
    "recency": recency,
    "ahead": ahead,
    "items": items,
    "second": second,
}


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", required=True)
    given, words = parser.parse_known_args()
    for variant in given.variants.split(","):
        kind, _, number = variant.partition(":")
        if kind not in KINDS:
            parser.error(f"--variants: {kind!r} is none of {', '.join(KINDS)}")
        if (kind != "patterns") != bool(number):
            parser.error(f"--variants: {variant!r}; all but patterns take a number, as in recency:0.02")
    settings = read_settings(words, model="RaSASRec", dataset="ml-100k")
    model, dataset = settings.pop("model"), settings.pop("dataset")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"show_progress": False, "state": "ERROR", "fusion": "raserec", **settings}
        config = RaConfig(model, dataset, (), settings)
        # No key knows of what is changed here: what is fine-tuned is never reused.
        fresh = RaConfig(model, dataset, (), {**settings, "reuse": False})
        splits = Splits.load(config)
        run = Run(config, splits, ArtifactStore(Path(config["checkpoint_dir"])), lambda line: None)
        mined = MinedPatterns(run)
        backbone = backbone_stage(run)
        base = backbone.recommender(run)
        memory = bank_stage(run, mined, backbone, base)
        found: dict[str, Any] = {}
        for name in ("as they are", *given.variants.split(",")):
            kind, _, number = name.partition(":")
            changed = (
                KINDS[kind](run, mined, memory, float(number or 0)) if found else contextlib.nullcontext()
            )
            one = Run(fresh, splits, ArtifactStore(Path(folder)), lambda line: None)
            print(f"{dataset}, memory_source={config.bank.memory_source}, {name}", flush=True)
            with changed:
                raft = raft_stage(one, mined, backbone, base, memory)
                rows = retrieve_rows(one, raft.recommender, splits.valid)
                assert rows is not None, "validation rows are held out"
                batches = valid_batches(one, raft.recommender, rows)
                found[name] = measured(one, raft.recommender, batches, raft)
            print(f"  over as they are: {said(found[name], found['as they are'])}", flush=True)


if __name__ == "__main__":
    start(main)
