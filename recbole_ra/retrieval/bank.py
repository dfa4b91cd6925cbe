"""Stage ``bank``: encode training rows, and find the neighbours of rows among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction

from recbole_ra.core.errors import SettingsError
from recbole_ra.core.files import read_made, write_array
from recbole_ra.data.dataset import Fields
from recbole_ra.data.table import IntArray, Origin, Prefixes, SequenceTable
from recbole_ra.data.training_part import RegeneratedDataset
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.retrieval.index import check_lists
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.neighbours import Queries
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.retrieval.transitions import RECENT
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.backbone import Backbone
from recbole_ra.training.loaders import cut_rows
from recbole_ra.training.run import Run


def encode_rows(
    run: Run, recommender: SequentialModel, split: Any, rows: IntArray | None = None
) -> torch.Tensor:
    """Encode a split's rows, all or those named, shape [rows, D], on the CPU."""
    recommender.eval()
    size = run.config["eval_batch_size"]
    rows = np.arange(len(split)) if rows is None else rows
    order = np.argsort(split.prefixes.lengths[rows], kind="stable")
    blocks = [order[first : first + size] for first in range(0, len(order), size)]
    shared = (recommender, split, run.fields, run.config.torch_device)
    states: torch.Tensor | None = None
    parts = run.workers.map(encode_block, shared, [rows[block] for block in blocks])
    for block, part in zip(blocks, parts, strict=True):
        if states is None:
            states = part.new_empty(len(order), part.shape[1])
        states[torch.from_numpy(block)] = part
    assert states is not None, "an empty split has no states"
    return states


@torch.no_grad()
def encode_block(shared: tuple[SequentialModel, Any, Fields, torch.device], rows: IntArray) -> torch.Tensor:
    """Encode some rows, shape [len(rows), D], on the CPU."""
    recommender, split, fields, device = shared
    interaction = cut_rows(split, rows, fields, trim=recommender.trims).to(device)
    return recommender.to(device).represent(interaction).cpu()


def memories_of(prefixes: Prefixes) -> dict[str, Any]:
    """Collect what a bank keeps of (prefix, next item) rows besides their keys."""
    facts = Queries.of(prefixes)
    times = np.full(len(prefixes), np.nan) if facts.times is None else facts.times
    return {
        "values": prefixes.targets,
        "users": facts.users,
        "lengths": facts.lengths,
        "times": times,
        "recent": recent_items(prefixes),
    }


def recent_items(prefixes: Prefixes) -> NDArray[np.int32]:
    """Return the latest items that are kept of each prefix, the last one first, [rows, RECENT]; 0 = none."""
    back = np.arange(RECENT)
    inside = back < prefixes.lengths[:, None]
    place = np.where(inside, prefixes.flat_position[:, None] - 1 - back, 0)
    return np.where(inside, prefixes.table.items[place], np.int32(0))


@dataclass
class Memory:
    """The bank and the constants that follow from it and a frozen backbone."""

    bank: MemoryBank
    key: str
    train_states: torch.Tensor


def bank_stage(run: Run, mined: MinedPatterns, backbone: Backbone, base: SequentialModel) -> Memory:
    """Encode the training rows and build the memory bank, or reuse both."""
    config, started = run.config, perf_counter()
    after = {"backbone": backbone.key}
    if config.bank.memory_source != "enumerate":
        after["patterns"] = mined.key
    if config.bank.memory_data == "regenerated":
        after["rows"] = regenerated_of(run).fingerprint()
    content = run.content("bank", after)
    with run.making(content) as artifact:
        found = artifact.found
        if found is not None:
            bank = MemoryBank.load(found / "bank", config.torch_device)
            states = torch.from_numpy(read_made(found / "train_states.npy"))
        else:
            folder = run.start(artifact, resume=False)
            states = encode_rows(run, base, run.splits.train)
            bank = build_bank(run, mined, base, states)
            bank.save(folder / "bank")
            write_array(folder / "train_states.npy", states.numpy())
            run.finish(artifact)
    run.took("bank", started)
    run.say(f"bank: {len(bank)} memories ({config.bank.memory_source}, {config.bank.index_type})")
    return Memory(bank, artifact.key, states)


def build_bank(run: Run, mined: MinedPatterns, base: SequentialModel, states: torch.Tensor) -> MemoryBank:
    """Build memories from every training row, from mined patterns, or from both."""
    config = run.config
    parts: list[dict[str, Any]] = []
    if config.bank.memory_source in ("enumerate", "both"):
        if config.bank.memory_data == "original":
            parts.append({"keys": states.numpy(), **memories_of(run.train_rows)})
        else:
            parts.append(regenerated_memories(run, base))
    if with_patterns(config):
        parts.append(pattern_memories(run, mined.table, base))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return indexed(config, columns)


def with_patterns(config: RaConfig) -> bool:
    """Tell whether mined patterns are remembered, and are not among regenerated rows that are."""
    there = config.bank.memory_data == "regenerated" and "pattern" in config.regeneration.origins
    return config.bank.memory_source == "patterns" or (config.bank.memory_source == "both" and not there)


def indexed(config: RaConfig, columns: Mapping[str, Any]) -> MemoryBank:
    """Build a bank of these columns with the index that the settings ask for."""
    return MemoryBank.build(
        **columns,
        index_kind=config.bank.index_type,
        nlist=config.bank.nlist,
        nprobe=config.bank.nprobe,
        seed=config.seed_value,
        device=config.torch_device,
    )


def regenerated_of(run: Run) -> RegeneratedDataset:
    """Return the regenerated training split of a run that has one."""
    assert run.regenerated is not None, "the settings were checked: memory_data=regenerated regenerates"
    return run.regenerated


def regenerated_memories(run: Run, base: SequentialModel) -> dict[str, Any]:
    """Make memories of every regenerated row; a repeated original is remembered once.

    A decoded row may hold any item of its source, so to its owner it is as late as the owner's last
    training target: no training query of the owner may see it, validation and test may (METHOD 4).
    When it happened is unknown.
    """
    dataset = regenerated_of(run)
    chosen = dataset.distinct_rows
    rows = dataset.prefixes[chosen]
    facts = memories_of(rows)
    made = rows.table.origin[rows.sequence] != Origin.ORIGINAL
    trained = np.zeros(int(run.training_part.sequences.users.max()) + 1, dtype=np.int64)
    trained[run.training_part.sequences.users] = np.maximum(run.training_part.sequences.lengths - 1, 0)
    facts["lengths"] = np.where(made, trained[facts["users"]], facts["lengths"])
    return {"keys": encode_rows(run, base, dataset, chosen).numpy(), **facts}


@torch.no_grad()
def pattern_memories(run: Run, patterns: SequenceTable, base: SequentialModel) -> dict[str, Any]:
    """Make an unowned memory (pattern[:-1] → pattern[-1]) of every mined pattern (METHOD 4)."""
    rows = Prefixes(
        patterns, np.arange(len(patterns)), patterns.lengths - 1, run.config["MAX_ITEM_LIST_LENGTH"]
    )
    keys = []
    for first in range(0, len(rows), run.config["eval_batch_size"]):
        part = rows[slice(first, first + run.config["eval_batch_size"])]
        width = None if base.trims else run.config["MAX_ITEM_LIST_LENGTH"]
        interaction = pattern_interaction(part, run.fields, width).to(run.config.torch_device)
        keys.append(base.represent(interaction).cpu().numpy())
    return {"keys": np.concatenate(keys), **memories_of(rows), "lengths": rows.position}


def pattern_interaction(rows: Prefixes, fields: Fields, width: int | None) -> Interaction:
    """Make RecBole's ``Interaction`` of histories that are in no data set."""
    return Interaction(
        {
            fields.user: torch.zeros(len(rows), dtype=torch.int64),
            fields.history: torch.from_numpy(rows.items(width)),
            fields.length: torch.from_numpy(rows.lengths),
        }
    )


def check_bank_size(run: Run, mined: MinedPatterns) -> None:
    """Refuse, before a backbone is trained, to ask for more neighbours or lists than there will be memories.

    Raises
    ------
    SettingsError
    """
    source = run.config.bank.memory_source
    memories = len(mined.patterns) if with_patterns(run.config) else 0
    if source != "patterns":
        original = run.config.bank.memory_data == "original"
        memories += len(run.train_rows if original else regenerated_of(run).distinct_rows)
    n_neighbors = run.config.raft.n_neighbors
    if n_neighbors > memories:
        raise SettingsError(
            f"n_neighbors={n_neighbors} but the memory bank holds only {memories} memories "
            f"(memory_source={source}); lower n_neighbors"
        )
    if run.config.bank.index_type == "IVFFlat":
        check_lists(run.config.bank.nlist, memories)


def extend_bank(run: Run, recommender: RetrievalRecommender, states: torch.Tensor | None = None) -> None:
    """Add the validation pairs, whose states may be known: a dynamic memory takes them without training."""
    if not len(run.splits.valid):
        return
    if states is None:
        states = encode_rows(run, recommender.base, run.splits.valid)
    recommender.remember(keys=states.numpy(), **memories_of(run.splits.valid.prefixes))
