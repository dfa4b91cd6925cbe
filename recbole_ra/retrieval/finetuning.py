"""Stage ``raft``: retrieval-augmented fine-tuning (METHOD 5)."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_ra.core.errors import SettingsError
from recbole_ra.core.files import read_made, write_json
from recbole_ra.core.seeding import stream
from recbole_ra.data.dataset import CompactDataset, Fields
from recbole_ra.data.table import IntArray, Prefixes
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.retrieval.bank import Memory, build_bank, encode_rows, extend_bank
from recbole_ra.retrieval.choice import Choice, choose
from recbole_ra.retrieval.fusion import Fusion
from recbole_ra.retrieval.held_out import set_weights
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.mixture import MIXTURES, Mixture
from recbole_ra.retrieval.neighbours import Queries
from recbole_ra.retrieval.recommender import EncodedQuery, RaftBatches, RetrievalRecommender
from recbole_ra.retrieval.retrieved import Retrieved
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.backbone import Backbone
from recbole_ra.training.loaders import EvalBatches, cut_rows
from recbole_ra.training.run import Run
from recbole_ra.training.setup import seed_everything
from recbole_ra.training.stage import train_stage
from recbole_ra.training.trainer import RaTrainer

RAFT = "RAFT"  # the stage's name in a history
CHOICE = "choice.json"

CHOSEN_ON = 10_000
"""Validation rows on which weights are chosen, at most."""


@dataclass
class Raft:
    """The fine-tuned recommender; ``choice`` is None where alpha was given, or nothing was held out."""

    recommender: RetrievalRecommender
    trainer: RaTrainer
    choice: Choice | None


def raft_stage(
    run: Run, mined: MinedPatterns, backbone: Backbone, base: SequentialModel, memory: Memory
) -> Raft:
    """Fine-tune the retrieval-augmented module, or reuse one."""
    config, started = run.config, perf_counter()
    seed_everything(config)
    everything = config.raft.finetune == "all"
    recommender = build_recommender(config, base, memory.bank)

    def renewed() -> None:
        renew_bank(run, mined, recommender)

    @functools.cache
    def validation() -> EvalBatches | None:
        if everything:  # bank and queries are encoded by the weights that are validated
            return run.evaluation(run.splits.valid, recommender, before=renewed)
        found = retrieve_rows(run, recommender, run.splits.valid)
        look_up = None if found is None else cached(recommender, run.splits.valid, found)
        return run.evaluation(run.splits.valid, recommender, look_up)

    def batches(_: RaTrainer) -> tuple[RaftBatches, EvalBatches | None]:
        start_epoch: Callable[[], Callable[[Tensor], Any]]
        if everything:
            start_epoch = functools.partial(search_anew, run, mined, recommender)
        else:
            found = training_neighbours(run, recommender, memory.train_states).to(config.torch_device)
            look_up = cached(recommender, run.splits.train, found)
            start_epoch = lambda: lambda rows: look_up(rows.numpy())  # noqa: E731
        train = RaftBatches(
            start_epoch,
            torch.from_numpy(run.train_rows.targets),
            batch_size=config.raft.raft_batch_size,
            seed=config.seed_value,
        )
        return train, validation()

    def choose_weight(trainer: RaTrainer) -> None:
        if not config.chosen_weights or not len(run.splits.valid):
            return
        clock = perf_counter()
        if everything:
            renew_bank(run, mined, recommender)
        with as_at_the_test(run, recommender) as held_out:
            choice = choose(recommender, held_out, str(config["valid_metric"]), config.chosen_weights)
        write_json(trainer.folder / CHOICE, choice.as_json())
        run.took("choice", clock)

    facts: dict[str, Any] = {"chosen_weights": config.chosen_weights}
    if config.chosen_weights:  # they are chosen with that bank
        facts["extend_with_validation"] = config.bank.extend_with_validation
    content = run.content("raft", {"backbone": backbone.key, "bank": memory.key}, **facts)
    with run.making(content) as artifact:
        trainer = train_stage(
            run,
            artifact,
            recommender,
            batches,
            name=RAFT,
            identity=run.identity(f"Ra{config.backbone}"),
            learns=recommender.fusion is not None,
            afterwards=choose_weight,
        )
    if everything:
        renew_bank(run, mined, recommender)
    choice = read_choice(trainer.folder / CHOICE)
    if choice is not None:
        set_weights(recommender, choice.chosen)
        run.say(f"{RAFT}: {choice.summary()}")
    elif recommender.mixture is not None:  # nothing was held out to choose by
        set_weights(recommender, {"mixture_weight": config.raft.mixture_weight})
    run.history.extend(trainer.history)
    run.took("raft", started)
    return Raft(recommender, trainer, choice)


@contextlib.contextmanager
def as_at_the_test(run: Run, recommender: RetrievalRecommender) -> Iterator[EvalBatches]:
    """Yield the validation rows; meanwhile the bank has the pairs of the others, if the test will have them.

    A row's own pair is no memory of it: neighbours must be older than the row, and transitions leave it out.
    They know of no time, so that only the last row of each user is asked, which has no later pair. Of many
    rows some are drawn, so that the choice costs the same for any number of users.
    """
    split, bank, counted = run.splits.valid, recommender.bank, recommender.transitions
    extends = run.config.bank.extend_with_validation
    states = encode_rows(run, recommender.base, split)
    if extends:
        recommender.set_bank(bank.copy(), copy.copy(counted))  # what is added makes its sums anew
        extend_bank(run, recommender, states)
    asked = last_rows(split.prefixes) if extends else np.arange(len(split))
    rows = np.sort(stream(run.config.seed_value, "choice").permutation(asked)[:CHOSEN_ON])
    found = recommender.retrieve(states[rows], Queries.of(split.prefixes[rows]))
    if extends:
        found.followed = torch.from_numpy(split.prefixes.targets[rows])
    batches = run.evaluation(split, recommender, cached(recommender, split, found, rows), only=rows)
    assert batches is not None, "there are validation rows"
    try:
        yield batches
    finally:
        recommender.set_bank(bank, counted)


def last_rows(prefixes: Prefixes) -> IntArray:
    """Return the row of each sequence with the longest history, ascending."""
    order = np.lexsort((prefixes.position, prefixes.sequence))
    return np.sort(order[np.diff(prefixes.sequence[order], append=-1) != 0])


def renew_bank(run: Run, mined: MinedPatterns, recommender: RetrievalRecommender) -> Tensor:
    """Make the bank anew with the backbone as it is now; returns the states of the training rows."""
    states = encode_rows(run, recommender.base, run.splits.train)
    recommender.set_bank(build_bank(run, mined, recommender.base, states))
    return states


def read_choice(path: Path) -> Choice | None:
    """Read what was chosen after training, or None if nothing was."""
    return Choice.of_json(read_made(path)) if path.is_file() else None


def retrieve_rows(run: Run, recommender: RetrievalRecommender, split: CompactDataset) -> Retrieved | None:
    """Encode the rows of a split and find their memories; None if there is no row."""
    if not len(split):
        return None
    return recommender.retrieve(encode_rows(run, recommender.base, split), Queries.of(split.prefixes))


def cached(
    recommender: RetrievalRecommender, split: CompactDataset, found: Retrieved, known: IntArray | None = None
) -> Callable[[IntArray], Retrieved]:
    """Return what looks up rows whose neighbours are known, with their histories where these count.

    ``known``, in order, are the rows of the split that were found; by default all.
    """
    prefixes = split.prefixes

    def look_up(rows: IntArray) -> Retrieved:
        some = found[torch.from_numpy(rows if known is None else np.searchsorted(known, rows))]
        if recommender.needs_histories:
            some.histories = torch.from_numpy(prefixes[rows].items())
        return some

    return look_up


def build_recommender(config: RaConfig, base: SequentialModel, bank: MemoryBank) -> RetrievalRecommender:
    """Build the recommender over a backbone and a bank, before it is fine-tuned."""
    raft = config.raft
    return RetrievalRecommender(
        base,
        build_fusion(config, bank.keys.shape[1]) if raft.fuses else None,
        build_mixture(config) if raft.mixes else None,
        bank,
        fields=Fields.of(config),
        n_neighbors=raft.n_neighbors,
        scope=config.bank.memory_scope,
        loss_type=config["loss_type"] or "CE",
        n_negatives=1 if config.architecture is None else config.architecture.n_negatives,
        finetune_all=raft.finetune == "all",
        at_random=raft.fuses == "random",
    ).to(config.torch_device)


def build_mixture(config: RaConfig) -> Mixture:
    """Build the mixture; one whose weight will be chosen is off until then."""
    kind, values = MIXTURES[config.raft.mixes]
    chosen = "mixture_weight" in config.chosen_weights
    return kind(1.0 if chosen else config.raft.mixture_weight, values[0])


def build_fusion(config: RaConfig, width: int) -> Fusion:
    """Build the retrieval-augmented module for states of that width."""
    inner = config["inner_size"] if isinstance(config["inner_size"], int) else 4 * width
    return Fusion(
        kind="raserec" if config.raft.fuses == "random" else config.raft.fuses,
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
    states = renew_bank(run, mined, recommender)
    recommender.train()
    found = training_neighbours(run, recommender, states)

    def query(rows: Tensor) -> EncodedQuery:
        interaction = cut_rows(run.splits.train, rows.numpy(), run.fields, trim=base.trims)
        return EncodedQuery(recommender, interaction, found.ids[rows], found.valid[rows])

    return query
