"""The third stage: retrieval-augmented fine-tuning (METHOD 5)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from recbole_ra.core.errors import SettingsError
from recbole_ra.data.table import IntArray
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.retrieval.bank import Memory, build_bank, encode_rows
from recbole_ra.retrieval.fusion import Fusion
from recbole_ra.retrieval.neighbours import Queries
from recbole_ra.retrieval.recommender import EncodedQuery, RaftBatches, RetrievalRecommender, Retrieved
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.backbone import Backbone
from recbole_ra.training.loaders import EvalBatches, cut_rows
from recbole_ra.training.run import Run
from recbole_ra.training.setup import seed_everything
from recbole_ra.training.stage import train_stage
from recbole_ra.training.trainer import RaTrainer

RAFT = "RAFT"  # the stage's name in a history


@dataclass
class Raft:
    """The fine-tuned recommender."""

    recommender: RetrievalRecommender
    trainer: RaTrainer


def raft_stage(
    run: Run, mined: MinedPatterns, backbone: Backbone, base: SequentialModel, memory: Memory
) -> Raft:
    """Fine-tune the retrieval-augmented module, or reuse one."""
    config, started = run.config, perf_counter()
    seed_everything(config)
    everything = config.raft.finetune == "all"
    recommender = RetrievalRecommender(
        base,
        build_fusion(config, memory.train_states.shape[1]),
        memory.bank,
        fields=run.fields,
        n_neighbors=config.raft.n_neighbors,
        scope=config.bank.memory_scope,
        loss_type=config["loss_type"] or "CE",
        n_negatives=1 if config.architecture is None else config.architecture.n_negatives,
        finetune_all=everything,
    ).to(config.torch_device)

    def batches(_: RaTrainer) -> tuple[RaftBatches, EvalBatches | None]:
        cached: Callable[[IntArray], Any] | None = None
        start_epoch: Callable[[], Callable[[Tensor], Any]]
        if everything:
            start_epoch = functools.partial(search_anew, run, mined, recommender)
        else:
            rows = training_neighbours(run, recommender, memory.train_states).to(config.torch_device)
            start_epoch = lambda: rows.__getitem__  # noqa: E731
            if len(run.splits.valid):
                states = encode_rows(run, base, run.splits.valid)
                cached = recommender.retrieve(states, Queries.of(run.splits.valid.prefixes)).__getitem__
        train = RaftBatches(
            start_epoch,
            torch.from_numpy(run.train_rows.targets),
            batch_size=config.raft.raft_batch_size,
            seed=config.seed_value,
        )
        return train, run.evaluation(run.splits.valid, recommender, cached)

    with run.making(run.content("raft", {"backbone": backbone.key, "bank": memory.key})) as artifact:
        trainer = train_stage(
            run, artifact, recommender, batches, name=RAFT, identity=run.identity(f"Ra{config.backbone}")
        )
    if everything:
        states = encode_rows(run, base, run.splits.train)
        recommender.set_bank(build_bank(run, mined, base, states))
    run.history.extend(trainer.history)
    run.seconds["raft"] = perf_counter() - started
    return Raft(recommender, trainer)


def build_fusion(config: RaConfig, width: int) -> Fusion:
    """Build the retrieval-augmented module for states of that width."""
    if width % config.raft.ram_heads:
        raise SettingsError(
            f"ram_heads={config.raft.ram_heads} does not divide {config.backbone}'s width {width}"
        )
    inner = config["inner_size"] if isinstance(config["inner_size"], int) else 4 * width
    return Fusion(
        width=width,
        alpha=config.raft.alpha,
        beta=config.raft.beta,
        n_heads=config.raft.ram_heads,
        inner=inner,
        temperature=config.raft.attn_tau,
        dropout=config.raft.ram_dropout,
    )


def training_neighbours(run: Run, recommender: RetrievalRecommender, states: Tensor) -> Retrieved:
    """Find the neighbours of the training rows.

    Raises
    ------
    SettingsError
        If none has a single one, so that there would be nothing to learn from.
    """
    found = recommender.retrieve(states, Queries.of(run.train_rows))
    if not found.valid.any():
        raise SettingsError(
            f"memory_scope={run.config.bank.memory_scope!r}: no training row has a memory that it may see; "
            "use memory_scope=any, or memory_source=enumerate with memory_data=original"
        )
    return found


def search_anew(
    run: Run, mined: MinedPatterns, recommender: RetrievalRecommender
) -> Callable[[Tensor], EncodedQuery]:
    """Encode all rows and search their neighbours again: keys go stale where the backbone learns too."""
    base = recommender.base
    states = encode_rows(run, base, run.splits.train)
    recommender.set_bank(build_bank(run, mined, base, states))
    recommender.train()
    found = training_neighbours(run, recommender, states)

    def query(rows: Tensor) -> EncodedQuery:
        interaction = cut_rows(run.splits.train, rows.numpy(), run.fields, trim=base.trims)
        return EncodedQuery(recommender, interaction, found.ids[rows], found.valid[rows])

    return query
