"""The third stage: retrieval-augmented fine-tuning (METHOD 5)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from recbole_ra.bridge.augmented import AugmentedRecommender, EncodedQuery, RaftBatches, Retrieved
from recbole_ra.bridge.loaders import EvalBatches, cut_rows
from recbole_ra.bridge.recommenders import Recommender
from recbole_ra.bridge.setup import build_fusion, seed_everything
from recbole_ra.bridge.trainer import RaTrainer
from recbole_ra.core.errors import SettingsError
from recbole_ra.pipeline.backbone import Backbone
from recbole_ra.pipeline.memory import Memory, build_bank, encode_rows, retrieve_rows
from recbole_ra.pipeline.run import Run, training_content
from recbole_ra.pipeline.training import train_stage

RAFT = "RAFT"  # the stage's name in a history


@dataclass
class Raft:
    """The fine-tuned recommender."""

    recommender: AugmentedRecommender
    trainer: RaTrainer


def raft_stage(run: Run, backbone: Backbone, base: Recommender, memory: Memory) -> Raft:
    """Fine-tune the retrieval-augmented module, or reuse one."""
    config, started = run.config, perf_counter()
    seed_everything(config)
    everything = config.raft.finetune == "all"
    recommender = AugmentedRecommender(
        base,
        build_fusion(config, memory.train_states.shape[1]),
        memory.bank,
        fields=run.fields,
        time_field=config["TIME_FIELD"],
        n_neighbors=config.raft.n_neighbors,
        scope=config.bank.memory_scope,
        loss_type=config["loss_type"] or "CE",
        finetune_all=everything,
    ).to(config.torch_device)
    inputs = {
        "bank": memory.key,
        "raft": dataclasses.asdict(config.raft),
        "scope": config.bank.memory_scope,
        "backbone": backbone.key,
    }

    def batches(_: RaTrainer) -> tuple[RaftBatches, EvalBatches | None]:
        cached = None
        start_epoch: Callable[[], Callable[[Tensor], Any]]
        if everything:
            start_epoch = functools.partial(search_anew, run, recommender, backbone.trim)
        else:
            rows = training_neighbours(run, memory).to(config.torch_device)
            start_epoch = lambda: rows.__getitem__  # noqa: E731
            if len(run.splits.valid):
                states = encode_rows(run, base, run.splits.valid, backbone.trim)
                cached = retrieve_rows(run, memory, states, run.splits.valid.prefixes)
        train = RaftBatches(
            start_epoch,
            torch.from_numpy(run.train_rows.targets),
            batch_size=config.raft.raft_batch_size,
            seed=config.seed_value,
        )
        return train, run.evaluation(run.splits.valid, backbone.trim, cached)

    with run.making(training_content(run, "raft", **inputs)) as artifact:
        trainer = train_stage(
            run, artifact, recommender, batches, name=RAFT, identity=run.identity(f"Ra{config.backbone}")
        )
    if everything:
        states = encode_rows(run, recommender.base, run.splits.train, backbone.trim)
        recommender.set_bank(build_bank(run, base, states, backbone.trim))
    run.history.extend(trainer.history)
    run.seconds["raft"] = perf_counter() - started
    return Raft(recommender, trainer)


def training_neighbours(run: Run, memory: Memory) -> Retrieved:
    """The training rows with their neighbours.

    Raises
    ------
    SettingsError
        If none has a single one, so that there would be nothing to learn from.
    """
    found = retrieve_rows(run, memory, memory.train_states, run.train_rows)
    if not found.valid.any():
        raise SettingsError(
            f"memory_scope={run.config.bank.memory_scope!r}: no training row has a memory that it may see; "
            "use memory_scope=any, or memory_source=enumerate with memory_data=original"
        )
    return found


def search_anew(run: Run, recommender: AugmentedRecommender, trim: bool) -> Callable[[Tensor], EncodedQuery]:
    """Where the backbone learns too, keys go stale: encode all rows and search their neighbours again."""
    states = encode_rows(run, recommender.base, run.splits.train, trim)
    bank = build_bank(run, recommender.base, states, trim)
    recommender.set_bank(bank)
    recommender.train()
    found = training_neighbours(run, Memory(bank, "", states))

    def query(rows: Tensor) -> EncodedQuery:
        interaction = cut_rows(run.splits.train, rows.numpy(), run.fields, trim=trim)
        return EncodedQuery(recommender, interaction, found.ids[rows], found.valid[rows])

    return query
