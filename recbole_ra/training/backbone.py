"""Stage ``backbone``: train the backbone, or reuse it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist

from recbole_ra.core.errors import SettingsError
from recbole_ra.core.files import digest
from recbole_ra.core.store import ArtifactStore
from recbole_ra.data.curriculum import Curriculum
from recbole_ra.data.dataset import Splits
from recbole_ra.data.table import SequenceTable
from recbole_ra.data.training_part import RegeneratedDataset
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.models.registry import CLOSED_FORM
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.contradictions import uneven_heads
from recbole_ra.training.checkpoint import load_weights
from recbole_ra.training.closed_form import ClosedFormTrainer
from recbole_ra.training.distributed import DistributedTrainer, ShardedBatches
from recbole_ra.training.loaders import sequence_batches, train_batches
from recbole_ra.training.personalisation import PersonalizedTrainer, trust
from recbole_ra.training.run import Run
from recbole_ra.training.setup import Base, build_base, seed_everything
from recbole_ra.training.stage import build_trainer, fit, train_stage
from recbole_ra.training.trainer import RaTrainer

TRAINING_ROWS = "training_rows.npz"
"""Regenerated rows, beside the checkpoints, for the processes that train on them together."""


@dataclass
class Backbone:
    """A trained backbone and where it came from."""

    base: Base
    trainer: RaTrainer
    key: str

    def recommender(self, run: Run) -> SequentialModel:
        """Return the backbone as a recommender with states and an item table.

        Raises
        ------
        SettingsError
            If it does not score by an inner product.
        """
        return self.base.recommender(run.splits, run.fields)


def backbone_stage(run: Run) -> Backbone:
    """Train the backbone on the original or the regenerated training split, or reuse or load one."""
    config, started = run.config, perf_counter()
    seed_everything(config)
    base = build_base(config, run.splits, run.training)
    if config.uses_retrieval and base.own is None:
        with torch.random.fork_rng():
            # Refuse now what could not be augmented after training.
            width = base.recommender(run.splits, run.fields).item_table.shape[1]
        if problem := uneven_heads(config, width, f"{width}, the width of {config.backbone}'s states"):
            raise SettingsError(problem)
    facts: dict[str, Any] = {}
    if run.workers.count > 1:
        facts["workers"] = run.workers.count  # each draws its own dropout masks
    base.see(run.training_sequences)
    rows = {} if run.regenerated is None else {"rows": run.regenerated.fingerprint()}
    content = run.content("backbone", rows, **facts)
    if config.run.backbone_checkpoint is not None:
        trainer = given_backbone(run, base, Path(config.run.backbone_checkpoint))
    else:
        with run.making(content) as artifact:
            if artifact.found is None and run.workers.count > 1:
                folder = run.start(artifact)
                if run.regenerated is not None:
                    run.regenerated.table.save(folder / TRAINING_ROWS)
                run.workers.train_backbone(config.chosen, folder, run.after_epoch)
                artifact.found = run.finish(artifact)
            trainer = train_stage(
                run,
                artifact,
                base.trained,
                lambda trainer: backbone_batches(run, base, trainer),
                name=config.backbone,
                identity=run.identity(config.backbone),
                kind=_trainer(config),
            )
    if config.personalisation.personalize != "none" and base.own is not None:
        run.trust = trust(run, base.own, sequence_batches(config, run.training.prefixes, base.own))
        base.own.personalizer = None  # it has a part in training alone
    run.history.extend(trainer.history)
    run.took("backbone", started)
    return Backbone(base, trainer, digest(content))


def _trainer(config: RaConfig) -> type[RaTrainer]:
    """Return the class that trains the backbone."""
    if config.backbone in CLOSED_FORM:
        return ClosedFormTrainer
    return RaTrainer if config.personalisation.personalize == "none" else PersonalizedTrainer


def backbone_batches(run: Run, base: Base, trainer: RaTrainer) -> tuple[Any, Any]:
    """Return the batches that a backbone is trained and validated on."""
    valid = run.evaluation(run.splits.valid, base.trained)
    if isinstance(trainer, ClosedFormTrainer):
        return None, valid
    batches = train_batches(run.config, run.splits, base.own, run.training)
    if base.own is not None and run.config.regeneration.regenerate_epochs:
        originals = sequence_batches(run.config, run.train_rows, base.own)
        trainer.first_epochs = run.config.regeneration.regenerate_epochs
        batches = Curriculum(batches, originals, trainer.first_epochs)
    if isinstance(trainer, PersonalizedTrainer) and base.own is not None:
        settings = run.config.personalisation
        judges = batches.prefixes if settings.as_released else run.train_rows
        trainer.personalise(settings, batches.prefixes, sequence_batches(run.config, judges, base.own))
    return batches, valid


def train_part(
    settings: Mapping[str, Any], folder: Path, on_epoch: Callable[[Mapping[str, Any]], None] | None
) -> None:
    """Train a backbone together with the other processes of a torch process group.

    Every process calls this with the same settings; regenerated training rows lie in the folder.

    Parameters
    ----------
    settings : mapping
        As the user set them, model and data set included.
    folder : Path
        Of the artifact in progress, the same for all.
    on_epoch : callable, optional
        Called in the first process after each epoch.
    """
    config = RaConfig(None, None, (), settings)
    splits = Splits.load(config)
    run = Run(config, splits, ArtifactStore(Path(config["checkpoint_dir"])), lambda line: None, on_epoch)
    if (folder / TRAINING_ROWS).exists():
        run.regenerated = RegeneratedDataset(splits.train, SequenceTable.load(folder / TRAINING_ROWS))
    seed_everything(config)
    base = build_base(config, splits, run.training)
    base.see(run.training_sequences)
    rank, world = dist.get_rank(), dist.get_world_size()
    trainer = build_trainer(
        run,
        "backbone",
        base.trained,
        folder,
        name=config.backbone,
        identity=run.identity(config.backbone),
        kind=DistributedTrainer,
    )
    batches, valid = backbone_batches(run, base, trainer)
    if rank:
        torch.manual_seed(torch.initial_seed() + rank)  # dropout masks of its own
    fit(run, trainer, ShardedBatches(batches, rank, world), valid)


def given_backbone(run: Run, base: Base, path: Path) -> RaTrainer:
    """Load the backbone of a checkpoint that the user names."""
    config, identity = run.config, run.identity(run.config.backbone)
    content = run.load_given(path, identity)
    load_weights(base.trained, content["state_dict"], path)
    run.reused.append("backbone")
    run.say(f"backbone: loaded {path}")
    trainer = build_trainer(
        run,
        "backbone",
        base.trained,
        path.parent,
        name=config.backbone,
        identity=identity,
        kind=ClosedFormTrainer if config.backbone in CLOSED_FORM else RaTrainer,
    )
    trainer.history = content["history"]
    return trainer
