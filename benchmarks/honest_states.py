"""Whether fine-tuning gains from states of a backbone that did not train on the row (cross-fitting).

    python benchmarks/honest_states.py --dataset=ml-100k --folds=2 --epochs=30 --raft_epochs=10

A frozen backbone has memorised its training targets, so on training rows the own state looks better than it
is. Here users are dealt into folds; a backbone trained on the other folds encodes the rows of each, rotated
into the space of the final backbone (orthogonal Procrustes on the item vectors: inner products stay). Every
fusion is trained on ordinary and on these honest states, all else equal. Beside that, what is cheaper: a
backbone that trains on nine users of ten as long as the last training targets of the tenth get better, and a
temperature of the frozen logits, fitted on validation, under the mixture alone.

Printed are validation gains over the backbone, and of honest over ordinary states, with the best weight
below 1, each with its paired standard error over users. Backbones are kept in ``checkpoint_dir`` and reused.
Further words are settings, as on the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from command import read_settings, start
from numpy.typing import NDArray
from scipy import optimize, stats

from recbole_ra.core.store import ArtifactStore
from recbole_ra.data.dataset import Splits
from recbole_ra.data.table import IntArray, SequenceTable, places
from recbole_ra.data.training_part import RegeneratedDataset
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.retrieval.bank import bank_stage, encode_rows
from recbole_ra.retrieval.candidates import metric_of_rows
from recbole_ra.retrieval.choice import choose
from recbole_ra.retrieval.finetuning import Raft, build_recommender, cached, raft_stage, retrieve_rows
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.retrieval.retrieved import Retrieved
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.recbole import split_metric
from recbole_ra.training.backbone import Backbone, backbone_stage
from recbole_ra.training.evaluation import PROTOCOLS
from recbole_ra.training.loaders import EvalBatches
from recbole_ra.training.run import Run

Rows = dict[str, NDArray[np.float64]]


def without(table: SequenceTable, users: IntArray) -> SequenceTable:
    """Leave out the sequences of some users."""
    kept = np.flatnonzero(~np.isin(table.users, users))
    lengths = table.lengths[kept]
    items = table.items[places(table.offsets[kept], lengths)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return SequenceTable.from_arrays(items, offsets, table.n_items, users=table.users[kept])


def honest_states(run: Run, table: torch.Tensor, n_folds: int) -> torch.Tensor:
    """Encode each training row by a backbone that saw nothing of its user, in the space of ``table``."""
    sequences = run.training_part.sequences
    order = np.random.default_rng(run.config.seed_value).permutation(len(sequences))
    states: torch.Tensor | None = None
    for fold in np.array_split(sequences.users[order], n_folds):
        run.regenerated = RegeneratedDataset(run.splits.train, without(sequences, fold))
        base = backbone_stage(run).recommender(run)
        run.regenerated = None
        rows = np.flatnonzero(np.isin(run.train_rows.users, fold))
        found = encode_rows(run, base, run.splits.train, rows)
        u, _, v = torch.linalg.svd(base.item_table[1:].detach().T @ table[1:])
        if states is None:
            states = found.new_zeros(len(run.train_rows), found.shape[1])
        states[torch.from_numpy(rows)] = found @ (u @ v)
    assert states is not None, "there is at least one fold"
    return states


def stopped_by_strangers(run: Run, share: float = 0.1) -> Backbone:
    """Train a backbone on most users, as long as the last training targets of the others get better."""
    sequences, rows = run.training_part.sequences, run.train_rows
    order = np.random.default_rng(run.config.seed_value).permutation(len(sequences))
    strangers = sequences.users[order[: int(share * len(sequences))]]
    last = np.flatnonzero((np.diff(rows.users, append=-1) != 0) & np.isin(rows.users, strangers))
    held_out = run.splits.train.copy(run.splits.train.inter_feat[last])
    splits = dataclasses.replace(run.splits, valid=held_out)
    alone = Run(run.config, splits, run.store, run.say)
    alone.regenerated = RegeneratedDataset(splits.train, without(sequences, strangers))
    return backbone_stage(alone)


def measured(run: Run, recommender: RetrievalRecommender, batches: EvalBatches, raft: Raft) -> Rows:
    """Return the metric of each row with the best weight below 1, and the gain over the backbone."""
    assert raft.choice is not None, "weights are chosen"
    protocol, metric = split_metric(str(run.config["valid_metric"]))
    setting = {**raft.choice.chosen, **raft.choice.steps[-1].best(protocol).setting}
    off = {name: 1.0 if name in ("alpha", "mixture_weight") else value for name, value in setting.items()}
    before, after = metric_of_rows(recommender, batches, [off, setting], metric)
    names = ", ".join(f"{name} {value:g}" for name, value in setting.items())
    print(f"  {names}: {said(after, before)}", flush=True)
    return after


def said(after: Rows, before: Rows) -> str:
    """Say by how much one is better than the other."""
    gains = {name: after[name] - before[name] for name in PROTOCOLS}
    return ", ".join(f"{name} {gain.mean():+.4f} ± {stats.sem(gain):.4f}" for name, gain in gains.items())


def temperature(recommender: RetrievalRecommender, batches: EvalBatches) -> float:
    """Fit what the logits of the backbone are multiplied by to the validation targets."""
    table = recommender.item_table

    @torch.no_grad()
    def loss(log: float) -> float:
        total = sum(
            torch.nn.functional.cross_entropy(
                np.exp(log) * batch.query.states @ table.T, batch.targets, reduction="sum"
            ).item()
            for batch in batches
        )
        return float(total)

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-2.0, 1.0), method="bounded").x))


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--fusions", default="scaled,gate,raserec,raserec+transitions")
    given, words = parser.parse_known_args()
    settings = read_settings(words, model="RaSASRec", dataset="ml-100k")
    model, dataset = settings.pop("model"), settings.pop("dataset")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"show_progress": False, "state": "ERROR", **settings}
        config = RaConfig(model, dataset, (), {**settings, "fusion": "transitions"})
        splits = Splits.load(config)

        def fresh_run(fusion: str) -> Run:
            # No key tells the states of a bank apart: what is fine-tuned here is never reused.
            config = RaConfig(model, dataset, (), {**settings, "fusion": fusion, "reuse": False})
            return Run(config, splits, ArtifactStore(Path(folder)), lambda line: None)

        run = Run(config, splits, ArtifactStore(Path(config["checkpoint_dir"])), lambda line: None)
        mined = MinedPatterns(run)
        clock = perf_counter()
        backbone = backbone_stage(run)
        base = backbone.recommender(run)
        memory = bank_stage(run, mined, backbone, base)
        print(f"{dataset}: backbone and bank {perf_counter() - clock:.0f} s", flush=True)
        clock = perf_counter()
        honest = honest_states(run, base.item_table.detach(), given.folds)
        cosine = torch.nn.functional.cosine_similarity(honest, memory.train_states).mean()
        print(f"{given.folds} folds: {perf_counter() - clock:.0f} s, cosine to ordinary states {cosine:.2f}")

        alone = build_recommender(run.config, base, memory.bank)
        found = retrieve_rows(run, alone, run.splits.valid)
        assert found is not None, "validation rows are held out"
        for warmth in (1.0, temperature(alone, valid_batches(run, alone, found))):
            found.states *= warmth
            warm = valid_batches(run, alone, found)
            chosen = choose(alone, warm, str(run.config["valid_metric"]), run.config.chosen_weights)
            print(f"transitions, logits times {warmth:.2f}: {chosen.summary()}", flush=True)

        clock = perf_counter()
        stopped = stopped_by_strangers(run)
        stopped_base = stopped.recommender(run)
        print(f"stopped by strangers: {perf_counter() - clock:.0f} s", flush=True)
        kinds = {
            "ordinary": (backbone, base, memory),
            "honest": (backbone, base, dataclasses.replace(memory, train_states=honest)),
            "stopped": (stopped, stopped_base, bank_stage(run, mined, stopped, stopped_base)),
        }
        for fusion in given.fusions.split(","):
            rows = {}
            for kind, parts in kinds.items():
                one, clock = fresh_run(fusion), perf_counter()
                raft = raft_stage(one, mined, *parts)
                print(f"{fusion}, {kind} states, {perf_counter() - clock:.0f} s", flush=True)
                found = retrieve_rows(one, raft.recommender, one.splits.valid)
                assert found is not None, "validation rows are held out"
                rows[kind] = measured(
                    one, raft.recommender, valid_batches(one, raft.recommender, found), raft
                )
                if kind != "ordinary":
                    print(f"  {kind} over ordinary: {said(rows[kind], rows['ordinary'])}", flush=True)


def valid_batches(run: Run, recommender: RetrievalRecommender, found: Retrieved) -> EvalBatches:
    """Make the batches of validation rows whose neighbours are known."""
    look_up = cached(recommender, run.splits.valid, found)
    batches = run.evaluation(run.splits.valid, recommender, look_up)
    assert batches is not None, "validation rows are held out"
    return batches


if __name__ == "__main__":
    start(main)
