"""The first stage: a trained backbone."""

from __future__ import annotations

import json
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
from recbole_ra.pipeline.run import Run, train_key, train_stage


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
    identity = run.identity(config.backbone)
    trim = base.own is not None
    if config.run.backbone_checkpoint is not None:
        path = Path(config.run.backbone_checkpoint)
        content = load_checkpoint(path, config.torch_device, identity)
        load_weights(base.trained, content["state_dict"], path)
        key = digest_bytes(path.read_bytes())
        folder = path.parent
        run.reused.append("backbone")
        run.say(f"backbone: loaded {path}")
    else:
        inputs = {} if run.regenerated is None else {"training": run.regenerated.table.fingerprint()}
        key, content = train_key(run, "backbone", **inputs)
        found = run.reuse("backbone", key)
        folder = found or run.store.start("backbone", key, resume=config.run.resume)
    trainer = RaTrainer(
        stage_config(config, "backbone"),
        base.trained,
        folder=folder,
        identity=identity,
        stage=config.backbone,
        train_dataset=run.splits.train,
        on_epoch=run.after_epoch,
    )
    if config.run.backbone_checkpoint is not None:
        trainer.saved_model_file = str(Path(config.run.backbone_checkpoint))
        trainer.history = content["history"]
    elif found is None:
        batches = train_batches(config, run.splits, base.own, run.training)
        train_stage(run, trainer, batches, run.evaluation(run.splits.valid, trim))
        folder = run.store.finish("backbone", key, content)
        trainer.folder, trainer.saved_model_file = folder, str(folder / "best.pt")
    else:
        trainer.history = json.loads((folder / "history.json").read_text())
    trainer.load_best()
    run.history.extend(trainer.history)
    run.seconds["backbone"] = perf_counter() - started
    return Backbone(base, trainer, key, trim)
