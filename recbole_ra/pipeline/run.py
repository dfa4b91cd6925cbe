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
from recbole_ra.bridge.dataset import CompactDataset
from recbole_ra.bridge.loaders import EvalBatches, Splits
from recbole_ra.bridge.recommenders import Fields
from recbole_ra.bridge.regenerated import RegeneratedDataset, training_sequences
from recbole_ra.bridge.regenerator import DEV_LOSS, SPACES_IN_USE
from recbole_ra.bridge.trainer import RaTrainer
from recbole_ra.core.errors import DataError
from recbole_ra.core.files import ArtifactStore, digest, digest_bytes, write_json
from recbole_ra.patterns.mining import Patterns, mine_patterns
from recbole_ra.sequences.relabel import TrainingItems
from recbole_ra.sequences.table import SequenceTable

STAGE_VERSIONS = {"teacher": 1, "regenerator": 1, "decoded": 1, "backbone": 1, "bank": 1, "raft": 1}

# Settings that change neither what is trained nor how it is measured.
NEUTRAL_KEYS = frozenset(
    """
    model output_dir checkpoint_dir data_path resume reuse show_progress state gpu_id use_gpu device worker
    log_wandb wandb_project save_dataset dataset_save_path save_dataloaders dataloaders_save_path config_files
    eval_batch_size metric_decimal_place loss_decimal_place backbone_checkpoint local_rank single_spec
    export_dir overwrite nproc world_size offset ip port
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
    regenerated: RegeneratedDataset | None = None
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
    def sequences(self) -> SequenceTable:
        """Each user's training part; nothing below here sees more when it learns from the data."""
        return training_sequences(self.splits.train)

    @functools.cached_property
    def items(self) -> TrainingItems:
        """The items of the training part, numbered without a look at the rest."""
        return TrainingItems.of(self.sequences, self.splits.whole.vocabulary)

    @functools.cached_property
    def numbered(self) -> SequenceTable:
        """The training part with the numbers of :attr:`items`."""
        return self.items.number(self.sequences)

    @functools.cached_property
    def training_part(self) -> str:
        """Digest of the training part; the same whatever is held out."""
        return digest_bytes(self.numbered.fingerprint().encode(), self.items.digest().encode())

    @functools.cached_property
    def patterns(self) -> Patterns:
        """Frequent patterns of the training sequences (METHOD 1.1), with the numbers of :attr:`items`.

        Raises
        ------
        DataError
            If there is none.
        """
        window, min_support = self.config.patterns.window, self.config.patterns.min_support
        mined = mine_patterns(self.numbered, window=window, min_support=min_support)
        if not len(mined):
            raise DataError(
                f"data set '{self.config.dataset}': no pattern occurs in {min_support} sequences within "
                f"{window} positions; lower --min_support, widen --window, or do without patterns "
                "(memory_source=enumerate, regenerate=none)"
            )
        return mined

    def pattern_table(self) -> SequenceTable:
        """The patterns with the data set's item ids, as sequences that nobody owns."""
        table = self.patterns.to_table(len(self.items))
        return dataclasses.replace(
            table, items=self.items.ids[table.items].astype(np.int32), n_items=self.n_items
        )

    @property
    def training(self) -> CompactDataset:
        """What the backbone trains on: the training split, or what was regenerated from it."""
        return self.splits.train if self.regenerated is None else self.regenerated

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
            measures = (str(self.config["valid_metric"]).lower(), DEV_LOSS, SPACES_IN_USE)
            valid = "".join(f"valid {name} {entry[name]:.4f}, " for name in measures if name in entry)
            self.say(
                f"{entry['stage']} epoch {entry['epoch']}: loss {entry['loss']:.4f}, {valid}"
                f"{entry['seconds']:.1f} s"
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
    config = run.config
    others = (config.patterns, config.regeneration, config.bank, config.raft)
    other_stages = {field.name for settings in others for field in dataclasses.fields(settings)}
    # A key that the backbone's own default files name (n_heads, a model's alpha) shapes the backbone too.
    skip = NEUTRAL_KEYS | (other_stages - set(config.internal_config_dict))
    settings = {key: repr(value) for key, value in config.final_config_dict.items() if key not in skip}
    content = {
        "stage": stage,
        "version": STAGE_VERSIONS[stage],
        "model": config.backbone,
        "data": run.fingerprint,
        "settings": settings,
        "optim": dataclasses.asdict(config.optim),
        "feed": dataclasses.asdict(config.feed),
        "architecture": config.architecture and dataclasses.asdict(config.architecture),
        **inputs,
    }
    return digest(content), content


def train_stage(run: Run, trainer: RaTrainer, batches: Any, valid: Any) -> None:
    """Fit one stage in its folder, continuing where it stood if asked to; ``valid`` may be None."""
    if run.config.run.resume and trainer.last_file.exists():
        trainer.resume_checkpoint(trainer.last_file)
        run.say(f"{trainer.stage}: continues after epoch {trainer.start_epoch - 1}")
    trainer.fit(
        batches,
        valid,
        verbose=False,
        show_progress=bool(run.config["show_progress"]),
    )
    write_json(trainer.folder / "history.json", trainer.history)
