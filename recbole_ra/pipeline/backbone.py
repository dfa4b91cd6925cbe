"""The first stage: a trained backbone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from recbole_ra.bridge.checkpoint import load_checkpoint, load_weights
from recbole_ra.bridge.loaders import train_batches
from recbole_ra.bridge.recommenders import Recommender
from recbole_ra.bridge.setup import Base, build_base, seed_everything, stage_config
from recbole_ra.bridge.trainer import RaTrainer
from recbole_ra.core.files import digest_bytes
from recbole_ra.pipeline.run import Run, training_content
from recbole_ra.pipeline.training import train_stage


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
    """Train the backbone on the original or the regenerated training split, or reuse or load one."""
    config, started = run.config, perf_counter()
    seed_everything(config)
    base = build_base(config, run.splits)
    if config.augmented and base.own is None:
        with torch.random.fork_rng():
            base.recommender(run.splits, run.fields)  # refuses now what could not be augmented after training
    trim = base.own is not None
    if config.run.backbone_checkpoint is not None:
        trainer, key = given_backbone(run, base, Path(config.run.backbone_checkpoint))
    else:
        inputs = {} if run.regenerated is None else {"training": run.regenerated.table.fingerprint()}
        with run.making(training_content(run, "backbone", **inputs)) as artifact:
            trainer = train_stage(
                run,
                artifact,
                base.trained,
                lambda _: (
                    train_batches(config, run.splits, base.own, run.training),
                    run.evaluation(run.splits.valid, trim),
                ),
                name=config.backbone,
                identity=run.identity(config.backbone),
            )
        key = artifact.key
    run.history.extend(trainer.history)
    run.seconds["backbone"] = perf_counter() - started
    return Backbone(base, trainer, key, trim)


def given_backbone(run: Run, base: Base, path: Path) -> tuple[RaTrainer, str]:
    """The backbone of a checkpoint that the user names, and the digest of the file."""
    config, identity = run.config, run.identity(run.config.backbone)
    content = load_checkpoint(path, config.torch_device, identity)
    load_weights(base.trained, content["state_dict"], path)
    run.reused.append("backbone")
    run.say(f"backbone: loaded {path}")
    trainer = RaTrainer(
        stage_config(config, "backbone"),
        base.trained,
        folder=path.parent,
        identity=identity,
        stage=config.backbone,
        train_dataset=run.splits.train,
    )
    trainer.history = content["history"]
    return trainer, digest_bytes(path.read_bytes())
