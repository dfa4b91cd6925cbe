"""The second stage: the memory bank, and the neighbours of rows in it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from recbole_ra.bridge.augmented import AugmentedRecommender, Retrieved
from recbole_ra.bridge.loaders import cut_rows
from recbole_ra.bridge.recommenders import Fields, Recommender
from recbole_ra.bridge.regenerated import RegeneratedDataset
from recbole_ra.bridge.setup import pattern_interaction
from recbole_ra.core.errors import SettingsError
from recbole_ra.pipeline.backbone import Backbone
from recbole_ra.pipeline.run import STAGE_VERSIONS, Run
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.neighbours import find_neighbours
from recbole_ra.sequences.prefixes import Prefixes
from recbole_ra.sequences.table import IntArray, Origin


def encode_rows(
    run: Run, recommender: Recommender, split: Any, trim: bool, rows: IntArray | None = None
) -> torch.Tensor:
    """The states of a split's rows, of all or of those named, shape [rows, D], on the CPU."""
    recommender.eval()
    size = run.config["eval_batch_size"]
    rows = np.arange(len(split)) if rows is None else rows
    order = np.argsort(split.prefixes.lengths[rows], kind="stable")
    blocks = [order[first : first + size] for first in range(0, len(order), size)]
    shared = (recommender, split, run.fields, trim, run.config.torch_device)
    states: torch.Tensor | None = None
    parts = run.workers.map(encode_block, shared, [rows[block] for block in blocks])
    for block, part in zip(blocks, parts, strict=True):
        if states is None:
            states = part.new_empty(len(order), part.shape[1])
        states[torch.from_numpy(block)] = part
    assert states is not None, "an empty split has no states"
    return states


@torch.no_grad()
def encode_block(shared: tuple[Recommender, Any, Fields, bool, torch.device], rows: IntArray) -> torch.Tensor:
    """The states of some rows, shape [len(rows), D], on the CPU."""
    recommender, split, fields, trim, device = shared
    interaction = cut_rows(split, rows, fields, trim=trim).to(device)
    return recommender.to(device).represent(interaction).cpu()


def memories_of(prefixes: Prefixes) -> dict[str, Any]:
    """Values, owners, lengths and times of (prefix, next item) rows."""
    times = prefixes.table.times
    return {
        "values": prefixes.targets,
        "users": prefixes.users,
        "lengths": prefixes.position,
        "times": np.full(len(prefixes), np.nan) if times is None else times[prefixes.flat_position],
    }


@dataclass
class Memory:
    """The bank and the constants that follow from it and a frozen backbone."""

    bank: MemoryBank
    key: str
    train_states: torch.Tensor


def bank_stage(run: Run, backbone: Backbone, base: Recommender) -> Memory:
    """Encode the training rows and build the memory bank, or reuse both."""
    config, started = run.config, perf_counter()
    settings = {**dataclasses.asdict(config.bank), **dataclasses.asdict(config.patterns)}
    for name in ("extend_with_validation", "memory_scope", "memory_data"):
        settings.pop(name)
    content = {
        "stage": "bank",
        "version": STAGE_VERSIONS["bank"],
        "backbone": backbone.key,
        "data": run.fingerprint,
        "settings": settings,
        "seed": config.seed_value,
    }
    if config.bank.memory_data == "regenerated":
        content["training"] = regenerated_of(run).fingerprint()
    with run.making(content) as artifact:
        found = artifact.found
        if found is not None:
            bank = MemoryBank.load(found / "bank", config.torch_device)
            states = torch.from_numpy(np.load(found / "train_states.npy", allow_pickle=False))
        else:
            folder = run.start(artifact, resume=False)
            states = encode_rows(run, base, run.splits.train, backbone.trim)
            bank = build_bank(run, base, states, backbone.trim)
            bank.save(folder / "bank")
            np.save(folder / "train_states.npy", states.numpy())
            run.finish(artifact)
    run.seconds["bank"] = perf_counter() - started
    run.say(f"bank: {len(bank)} memories ({config.bank.memory_source}, {config.bank.index_type})")
    return Memory(bank, artifact.key, states)


def build_bank(run: Run, base: Recommender, states: torch.Tensor, trim: bool) -> MemoryBank:
    """Memories from every training row, from mined patterns, or from both."""
    config = run.config
    parts: list[dict[str, Any]] = []
    if config.bank.memory_source in ("enumerate", "both"):
        if config.bank.memory_data == "original":
            parts.append({"keys": states.numpy(), **memories_of(run.train_rows)})
        else:
            parts.append(regenerated_memories(run, base, trim))
    if config.bank.memory_source in ("patterns", "both"):
        parts.append(pattern_memories(run, base, trim))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return MemoryBank.build(
        **columns,
        index_kind=config.bank.index_type,
        nlist=config.bank.nlist,
        nprobe=config.bank.nprobe,
        seed=config.seed_value,
        device=config.torch_device,
    )


def regenerated_of(run: Run) -> RegeneratedDataset:
    """The regenerated training split of a run that has one."""
    assert run.regenerated is not None, "the settings were checked: memory_data=regenerated regenerates"
    return run.regenerated


def regenerated_memories(run: Run, base: Recommender, trim: bool) -> dict[str, Any]:
    """(prefix, next item) of every regenerated row; an original that trains twice is remembered once.

    A decoded row may hold any item of its source, so to its owner it is as late as the owner's last
    training target: no training query of the owner may see it, validation and test may (METHOD 4).
    When it happened is unknown.
    """
    dataset = regenerated_of(run)
    chosen = dataset.distinct_rows
    rows = dataset.prefixes[chosen]
    facts = memories_of(rows)
    made = rows.table.origin[rows.sequence] != Origin.ORIGINAL
    trained = np.zeros(int(run.sequences.users.max()) + 1, dtype=np.int64)
    trained[run.sequences.users] = np.maximum(run.sequences.lengths - 1, 0)
    facts["lengths"] = np.where(made, trained[facts["users"]], facts["lengths"])
    return {"keys": encode_rows(run, base, dataset, trim, chosen).numpy(), **facts}


@torch.no_grad()
def pattern_memories(run: Run, base: Recommender, trim: bool) -> dict[str, Any]:
    """(pattern[:-1], pattern[-1]) of every mined pattern; nobody owns them (METHOD 4)."""
    patterns = run.pattern_table()
    rows = Prefixes(
        patterns, np.arange(len(patterns)), patterns.lengths - 1, run.config["MAX_ITEM_LIST_LENGTH"]
    )
    keys = []
    for first in range(0, len(rows), run.config["eval_batch_size"]):
        part = rows[slice(first, first + run.config["eval_batch_size"])]
        width = None if trim else run.config["MAX_ITEM_LIST_LENGTH"]
        interaction = pattern_interaction(part, run.fields, width).to(run.config.torch_device)
        keys.append(base.represent(interaction).cpu().numpy())
    return {"keys": np.concatenate(keys), **memories_of(rows), "lengths": rows.position}


def check_bank_size(run: Run) -> None:
    """Refuse, before a backbone is trained, to ask for more neighbours than there will be memories.

    Raises
    ------
    SettingsError
    """
    source, wanted = run.config.bank.memory_source, run.config.raft.n_neighbors
    original = run.config.bank.memory_data == "original"
    rows = len(run.train_rows) if original else len(regenerated_of(run).distinct_rows)
    memories = 0 if source == "patterns" else rows
    if source != "enumerate":
        memories += len(run.patterns)
    if wanted > memories:
        raise SettingsError(
            f"n_neighbors={wanted} but the memory bank holds only {memories} memories "
            f"(memory_source={source}); lower n_neighbors"
        )


def retrieve_rows(run: Run, memory: Memory, states: torch.Tensor, prefixes: Prefixes) -> Retrieved:
    """States of rows with their neighbours."""
    facts = memories_of(prefixes)
    neighbours = find_neighbours(
        memory.bank,
        states.numpy(),
        users=facts["users"],
        lengths=facts["lengths"],
        times=facts["times"],
        k=run.config.raft.n_neighbors,
        scope=run.config.bank.memory_scope,
    )
    return Retrieved.of(states, neighbours)


def extend_bank(run: Run, backbone: Backbone, recommender: AugmentedRecommender) -> None:
    """Add the validation pairs: a dynamic memory takes new interactions without training."""
    if not len(run.splits.valid):
        return
    states = encode_rows(run, recommender.base, run.splits.valid, backbone.trim)
    bank = recommender.bank
    bank.add(keys=states.numpy(), **memories_of(run.splits.valid.prefixes))
    recommender.set_bank(bank)
