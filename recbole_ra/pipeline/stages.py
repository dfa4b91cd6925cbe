"""The stages of a run: train a backbone, build the bank, fine-tune.

Each stage turns inputs into one artifact that is found again by the digest of those inputs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from recbole_ra.bridge.augmented import AugmentedRecommender, EncodedBatches, RaftBatches, Retrieved
from recbole_ra.bridge.checkpoint import load_checkpoint, load_weights
from recbole_ra.bridge.config import RaConfig
from recbole_ra.bridge.loaders import EvalBatches, Splits, cut_rows, train_batches
from recbole_ra.bridge.recommenders import Fields, Recommender
from recbole_ra.bridge.setup import (
    Base,
    build_base,
    build_fusion,
    pattern_interaction,
    seed_everything,
    stage_config,
)
from recbole_ra.bridge.trainer import RaTrainer
from recbole_ra.core.errors import DataError
from recbole_ra.core.files import ArtifactStore, digest, write_json
from recbole_ra.patterns.mining import mine_patterns
from recbole_ra.retrieval.memory import MemoryBank
from recbole_ra.retrieval.neighbours import find_neighbours
from recbole_ra.sequences.prefixes import Prefixes

STAGE_VERSIONS = {"backbone": 1, "bank": 1, "raft": 1}

# Settings that change neither what is trained nor how it is measured.
NEUTRAL_KEYS = frozenset(
    "model output_dir checkpoint_dir data_path resume reuse show_progress state gpu_id use_gpu device worker "
    "log_wandb wandb_project save_dataset dataset_save_path save_dataloaders dataloaders_save_path config_files "
    "eval_batch_size metric_decimal_place loss_decimal_place backbone_checkpoint local_rank single_spec "
    "nproc world_size offset ip port".split()
)


@dataclass
class Run:
    """What the stages of one run share."""

    config: RaConfig
    splits: Splits
    store: ArtifactStore
    say: Callable[[str], None]
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fields = Fields.of(self.config)
        vocabulary = self.splits.whole.vocabulary
        self.vocabulary = digest(vocabulary)
        self.n_items = len(vocabulary)
        train = self.splits.train.prefixes
        self.fingerprint = digest(
            [
                self.splits.whole.table.fingerprint(),
                self.vocabulary,
                *(digest(split.prefixes.flat_position.tolist()) for split in self.three),
            ]
        )
        self.train_rows = train

    @property
    def three(self) -> tuple[Any, Any, Any]:
        """Training, validation and test split."""
        return self.splits.train, self.splits.valid, self.splits.test

    def identity(self, model: str) -> dict[str, Any]:
        """What a checkpoint of that model is tied to."""
        return {"model": model, "vocabulary": self.vocabulary, "n_items": self.n_items}

    def evaluation(self, split: Any, trim: bool, retrieved: Retrieved | None = None) -> EvalBatches | None:
        """Evaluation batches of a split, or None if it is empty."""
        if len(split) == 0:
            return None
        return EvalBatches(
            split, self.fields, batch_size=self.config["eval_batch_size"], trim=trim, retrieved=retrieved
        )

    def reuse(self, stage: str, key: str) -> Path | None:
        """A finished artifact, if there is one and it may be used."""
        found = self.store.find(stage, key) if self.config.run.reuse else None
        if found is not None:
            self.reused.append(stage)
            self.say(f"{stage}: reused {found}")
        return found


def train_key(run: Run, stage: str, **inputs: Any) -> tuple[str, dict[str, Any]]:
    """Digest of everything that a training stage depends on."""
    raft_only = {field.name for field in dataclasses.fields(run.config.raft)} | {
        field.name for field in dataclasses.fields(run.config.bank)
    }
    # A key that the backbone's own default files name (n_heads, a model's alpha) shapes the backbone too.
    skip = NEUTRAL_KEYS | (raft_only - set(run.config.internal_config_dict))
    settings = {key: repr(value) for key, value in run.config.final_config_dict.items() if key not in skip}
    content = {
        "stage": stage,
        "version": STAGE_VERSIONS[stage],
        "model": run.config.backbone,
        "data": run.fingerprint,
        "settings": settings,
        "feed": dataclasses.asdict(run.config.feed),
        "architecture": run.config.architecture and dataclasses.asdict(run.config.architecture),
        **inputs,
    }
    return digest(content), content


@dataclass
class Backbone:
    """A trained backbone and where it came from."""

    base: Base
    trainer: RaTrainer
    key: str
    trim: bool

    def recommender(self, run: Run) -> Recommender:
        """The backbone as something whose states and item table can be used.

        Raises
        ------
        SettingsError
            If it does not score by an inner product.
        """
        return self.base.recommender(run.splits, run.fields)


def backbone_stage(run: Run) -> Backbone:
    """Train the backbone, or reuse or load one."""
    config, started = run.config, perf_counter()
    seed_everything(config)
    base = build_base(config, run.splits)
    if config.augmented and base.own is None:
        with torch.random.fork_rng():
            base.recommender(run.splits, run.fields)  # refuses now what could not be augmented after training
    identity = run.identity(config.backbone)
    trim = base.own is not None
    if config.run.backbone_checkpoint is not None:
        path = Path(config.run.backbone_checkpoint)
        content = load_checkpoint(path, config.torch_device, identity)
        load_weights(base.trained, content["state_dict"], path)
        key = digest([str(sorted((k, v.sum().item()) for k, v in content["state_dict"].items()))])
        folder = path.parent
        run.reused.append("backbone")
        run.say(f"backbone: loaded {path}")
    else:
        key, content = train_key(run, "backbone")
        found = run.reuse("backbone", key)
        folder = found or run.store.start("backbone", key, resume=config.run.resume)
    trainer = RaTrainer(
        stage_config(config, "backbone"),
        base.trained,
        folder=folder,
        identity=identity,
        stage=config.backbone,
        train_dataset=run.splits.train,
        on_epoch=run.on_epoch,
    )
    if config.run.backbone_checkpoint is not None:
        trainer.saved_model_file = str(Path(config.run.backbone_checkpoint))
        trainer.history = content["history"]
    elif found is None:
        train_stage(run, trainer, train_batches(config, run.splits, base.own), run.splits.valid, trim)
        folder = run.store.finish("backbone", key, content)
        trainer.folder, trainer.saved_model_file = folder, str(folder / "best.pt")
    else:
        trainer.history = json.loads((folder / "history.json").read_text())
    trainer.load_best()
    run.history.extend(trainer.history)
    run.seconds["backbone"] = perf_counter() - started
    return Backbone(base, trainer, key, trim)


def train_stage(
    run: Run, trainer: RaTrainer, batches: Any, valid: Any, trim: bool, retrieved: Retrieved | None = None
) -> None:
    """Fit one stage in its folder, continuing where it stood if asked to."""
    if run.config.run.resume and trainer.last_file.exists():
        trainer.resume_checkpoint(trainer.last_file)
        run.say(f"{trainer.stage}: continues after epoch {trainer.start_epoch - 1}")
    trainer.fit(
        batches,
        run.evaluation(valid, trim, retrieved),
        verbose=False,
        show_progress=bool(run.config["show_progress"]),
    )
    write_json(trainer.folder / "history.json", trainer.history)


@torch.no_grad()
def encode_rows(run: Run, recommender: Recommender, split: Any, trim: bool) -> torch.Tensor:
    """The state of every row of a split, shape [rows, D], on the CPU."""
    recommender.eval()
    order = np.argsort(split.prefixes.lengths, kind="stable")
    states: torch.Tensor | None = None
    for first in range(0, len(order), run.config["eval_batch_size"]):
        rows = order[first : first + run.config["eval_batch_size"]]
        interaction = cut_rows(split, rows, run.fields, trim=trim).to(run.config.torch_device)
        part = recommender.represent(interaction).cpu()
        if states is None:
            states = part.new_empty(len(order), part.shape[1])
        states[torch.from_numpy(rows)] = part
    assert states is not None, "an empty split has no states"
    return states


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
    settings = dataclasses.asdict(config.bank)
    settings.pop("extend_with_validation")
    settings.pop("memory_scope")
    content = {
        "stage": "bank",
        "version": STAGE_VERSIONS["bank"],
        "backbone": backbone.key,
        "data": run.fingerprint,
        "settings": settings,
        "seed": config.seed_value,
    }
    key = digest(content)
    found = run.reuse("bank", key)
    if found is not None:
        bank = MemoryBank.load(found / "bank", config.torch_device)
        states = torch.from_numpy(np.load(found / "train_states.npy", allow_pickle=False))
    else:
        folder = run.store.start("bank", key, resume=False)
        states = encode_rows(run, base, run.splits.train, backbone.trim)
        bank = build_bank(run, base, states, backbone.trim)
        bank.save(folder / "bank")
        np.save(folder / "train_states.npy", states.numpy())
        run.store.finish("bank", key, content)
    run.seconds["bank"] = perf_counter() - started
    run.say(f"bank: {len(bank)} memories ({config.bank.memory_source}, {config.bank.index_type})")
    return Memory(bank, key, states)


def build_bank(run: Run, base: Recommender, states: torch.Tensor, trim: bool) -> MemoryBank:
    """Memories from every training row, from mined patterns, or from both."""
    config = run.config
    parts: list[dict[str, Any]] = []
    if config.bank.memory_source in ("enumerate", "both"):
        parts.append({"keys": states.numpy(), **memories_of(run.train_rows)})
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


@torch.no_grad()
def pattern_memories(run: Run, base: Recommender, trim: bool) -> dict[str, Any]:
    """(pattern[:-1], pattern[-1]) of every mined pattern; nobody owns them (METHOD 4)."""
    bank, table = run.config.bank, run.splits.whole.table
    trained = np.bincount(run.train_rows.sequence, minlength=len(table))
    patterns = mine_patterns(
        table.head(np.where(trained > 0, trained + 1, 0)), window=bank.window, min_support=bank.min_support
    ).to_table(run.n_items)
    if not len(patterns):
        raise DataError(
            f"memory_source={bank.memory_source}: no pattern occurs {bank.min_support} times within {bank.window} "
            "positions; lower min_support or use memory_source=enumerate"
        )
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


def refreshed_batches(run: Run, recommender: AugmentedRecommender, trim: bool) -> EncodedBatches:
    """Batches for fine-tuning everything: keys go stale, so each epoch encodes and searches again."""

    def refresh() -> Retrieved:
        states = encode_rows(run, recommender.base, run.splits.train, trim)
        bank = build_bank(run, recommender.base, states, trim)
        recommender.set_bank(bank)
        recommender.train()
        return retrieve_rows(run, Memory(bank, "", states), states, run.train_rows)

    return EncodedBatches(
        recommender,
        refresh,
        lambda rows: cut_rows(run.splits.train, rows, run.fields, trim=trim),
        torch.from_numpy(run.train_rows.targets),
        batch_size=run.config.raft.raft_batch_size,
        seed=run.config.seed_value,
    )


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
    key, content = train_key(run, "raft", **inputs)
    found = run.reuse("raft", key)
    folder = found or run.store.start("raft", key, resume=config.run.resume)
    trainer = RaTrainer(
        stage_config(config, "raft"),
        recommender,
        folder=folder,
        identity=run.identity(f"Ra{config.backbone}"),
        stage="RAFT",
        train_dataset=run.splits.train,
        on_epoch=run.on_epoch,
    )
    if found is None:
        batches: Any
        cached = None
        if everything:
            batches = refreshed_batches(run, recommender, backbone.trim)
        else:
            device = config.torch_device
            batches = RaftBatches(
                retrieve_rows(run, memory, memory.train_states, run.train_rows).to(device),
                torch.from_numpy(run.train_rows.targets).to(device),
                batch_size=config.raft.raft_batch_size,
                seed=config.seed_value,
            )
            if len(run.splits.valid):
                states = encode_rows(run, base, run.splits.valid, backbone.trim)
                cached = retrieve_rows(run, memory, states, run.splits.valid.prefixes)
        train_stage(run, trainer, batches, run.splits.valid, backbone.trim, cached)
        folder = run.store.finish("raft", key, content)
        trainer.folder, trainer.saved_model_file = folder, str(folder / "best.pt")
    else:
        trainer.history = json.loads((folder / "history.json").read_text())
    trainer.load_best()
    if everything:
        states = encode_rows(run, recommender.base, run.splits.train, backbone.trim)
        recommender.set_bank(build_bank(run, base, states, backbone.trim))
    run.history.extend(trainer.history)
    run.seconds["raft"] = perf_counter() - started
    return Raft(recommender, trainer)


def extend_bank(run: Run, backbone: Backbone, recommender: AugmentedRecommender) -> None:
    """Add the validation pairs: a dynamic memory takes new interactions without training."""
    if not len(run.splits.valid):
        return
    states = encode_rows(run, recommender.base, run.splits.valid, backbone.trim)
    bank = recommender.bank
    bank.add(keys=states.numpy(), **memories_of(run.splits.valid.prefixes))
    recommender.set_bank(bank)
