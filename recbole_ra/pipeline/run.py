"""What the stages of one run share: settings, data, the store of artifacts, and a clock."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_ra.bridge.augmented import Retrieved
from recbole_ra.bridge.config import RaConfig
from recbole_ra.bridge.loaders import EvalBatches, Splits
from recbole_ra.bridge.recommenders import Fields
from recbole_ra.bridge.trainer import RaTrainer
from recbole_ra.core.errors import DataError
from recbole_ra.core.files import ArtifactStore, digest, digest_bytes, write_json
from recbole_ra.patterns.mining import mine_patterns
from recbole_ra.sequences.table import SequenceTable

STAGE_VERSIONS = {"backbone": 1, "bank": 1, "raft": 1}

# Settings that change neither what is trained nor how it is measured.
NEUTRAL_KEYS = frozenset(
    """
    model output_dir checkpoint_dir data_path resume reuse show_progress state gpu_id use_gpu device worker
    log_wandb wandb_project save_dataset dataset_save_path save_dataloaders dataloaders_save_path config_files
    eval_batch_size metric_decimal_place loss_decimal_place backbone_checkpoint local_rank single_spec
    nproc world_size offset ip port
    """.split()
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
        self.fingerprint = digest_bytes(
            self.splits.whole.table.fingerprint().encode(),
            self.vocabulary.encode(),
            *(split.prefixes.flat_position.tobytes() for split in self.three),
        )
        self.train_rows = train

    @property
    def three(self) -> tuple[Any, Any, Any]:
        """Training, validation and test split."""
        return self.splits.train, self.splits.valid, self.splits.test

    @functools.cached_property
    def patterns(self) -> SequenceTable:
        """Frequent patterns of the training sequences (METHOD 1.1).

        Raises
        ------
        DataError
            If there is none.
        """
        bank, table = self.config.bank, self.splits.whole.table
        trained = np.bincount(self.train_rows.sequence, minlength=len(table))
        sequences = table.head(np.where(trained > 0, trained + 1, 0))
        mined = mine_patterns(sequences, window=bank.window, min_support=bank.min_support)
        if not len(mined):
            raise DataError(
                f"memory_source={bank.memory_source}: no pattern occurs {bank.min_support} times within "
                f"{bank.window} positions; lower min_support or use memory_source=enumerate"
            )
        return mined.to_table(self.n_items)

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

    def after_epoch(self, entry: Mapping[str, Any]) -> None:
        """Tell how an epoch went, and pass it on to the caller."""
        if self.config["show_progress"]:
            metric = str(self.config["valid_metric"]).lower()
            self.say(
                f"{entry['stage']} epoch {entry['epoch']}: loss {entry['loss']:.4f}, valid {metric} "
                f"{entry[metric]:.4f}, {entry['seconds']:.1f} s"
            )
        if self.on_epoch is not None:
            self.on_epoch(entry)

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
        "optim": dataclasses.asdict(run.config.optim),
        "feed": dataclasses.asdict(run.config.feed),
        "architecture": run.config.architecture and dataclasses.asdict(run.config.architecture),
        **inputs,
    }
    return digest(content), content


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
