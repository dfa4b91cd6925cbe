"""One way to train a stage: continue, train or reuse, and leave the selected weights in the model."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_ra.core.files import read_made, replacing
from recbole_ra.training.checkpoint import BEST
from recbole_ra.training.run import Artifact, Run
from recbole_ra.training.setup import stage_config
from recbole_ra.training.trainer import RaTrainer

HISTORY = "history.json"


def train_stage(
    run: Run,
    artifact: Artifact,
    model: Any,
    batches: Callable[[RaTrainer], tuple[Any, Any]],
    *,
    name: str,
    identity: Mapping[str, Any],
    kind: type[RaTrainer] = RaTrainer,
    learns: bool = True,
    afterwards: Callable[[RaTrainer], None] | None = None,
) -> RaTrainer:
    """Train a model in the folder of its artifact, or load it from there.

    Parameters
    ----------
    run : Run
    artifact : Artifact
        From :meth:`Run.making`.
    model : what the trainer trains
    batches : callable
        Gives training and validation batches (the latter may be None); asked only if it is trained.
    name : str
        Of the stage in progress bars and in the history.
    identity : mapping
        What a checkpoint of this model is tied to.
    kind : type
        Class of the trainer.
    learns : bool
        Whether there is anything to train.
    afterwards : callable, optional
        What the stage does with the selected weights before it is finished; may write to the folder.

    Returns
    -------
    RaTrainer
        Its model holds the selected weights.
    """
    folder = artifact.found or run.start(artifact)
    trainer = build_trainer(run, artifact.stage, model, folder, name=name, identity=identity, kind=kind)
    if artifact.found is None:
        if learns:
            _copy_start(run.start_of(artifact.stage), trainer)
            fit(run, trainer, *batches(trainer))
            trainer.load_best()
        if afterwards is not None:
            afterwards(trainer)
        trainer.move(run.finish(artifact))
    elif learns:
        trainer.history = read_made(trainer.folder / HISTORY)
        run.report_epochs(trainer.history)
        trainer.load_best()
    return trainer


def build_trainer(
    run: Run,
    stage: str,
    model: Any,
    folder: Path,
    *,
    name: str,
    identity: Mapping[str, Any],
    kind: type[RaTrainer] = RaTrainer,
) -> RaTrainer:
    """Build the trainer of a stage, working in a folder; names as in :func:`train_stage`."""
    return kind(
        stage_config(run.config, stage),
        model,
        folder=folder,
        identity=identity,
        stage=name,
        train_dataset=run.splits.train,
        on_epoch=functools.partial(run.after_epoch, shown=kind.measures),
    )


def _copy_start(start: Path | None, trainer: RaTrainer) -> None:
    """Copy the checkpoints of another run, so that the stage continues from them."""
    if start is not None and not trainer.last_file.exists():
        for source, target in (
            (start.with_name(BEST), Path(trainer.saved_model_file)),
            (start, trainer.last_file),
        ):
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)


def fit(run: Run, trainer: RaTrainer, batches: Any, valid: Any) -> None:
    """Train, from the last checkpoint in the folder if there is one."""
    if trainer.last_file.exists():
        trainer.resume_checkpoint(trainer.last_file)
        run.say(f"{trainer.stage}: continues after epoch {trainer.start_epoch - 1}")
        run.report_epochs(trainer.history)
    trainer.fit(batches, valid, verbose=False, show_progress=bool(run.config["show_progress"]))
    trainer.keep_history(trainer.folder / HISTORY)
