"""What the stages of one run share: settings, data, the store of artifacts, and a clock."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import CheckpointError
from recbole_ra.core.files import digest, digest_bytes
from recbole_ra.core.store import ArtifactStore
from recbole_ra.core.workers import OneProcess, Workers
from recbole_ra.data.dataset import CompactDataset, Fields, Splits
from recbole_ra.data.table import IntArray, SequenceTable
from recbole_ra.data.training_part import RegeneratedDataset, TrainingPart
from recbole_ra.models.recommenders import SequentialModel
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.recbole import metric_key, split_metric
from recbole_ra.settings.stages import STAGES
from recbole_ra.training.checkpoint import load_checkpoint
from recbole_ra.training.loaders import EvalBatches


@dataclass
class Artifact:
    """The result of a stage.

    Attributes
    ----------
    stage, key : str
    content : mapping
        Everything that it is made from; ``key`` is its digest.
    found : Path or None
        Where it lies, None if it has to be made.
    """

    stage: str
    key: str
    content: Mapping[str, Any]
    found: Path | None


@dataclass(frozen=True)
class Trust:
    """How much training targets count where that is learned (DR4SR+).

    Attributes
    ----------
    weights : float32 array, shape [rows]
        Of each training row; 1 where it is not weighed.
    origins : tuple of str
        Those whose rows are weighed.
    moves : int or None
        Steps in which the weights were learned, up to the selected epoch; None if they were learned in every
        step.
    """

    weights: NDArray[np.float32]
    origins: tuple[str, ...]
    moves: int | None


@dataclass
class Run:
    """What the stages of one run share.

    Attributes
    ----------
    start_from : Path, optional
        Checkpoint of the last stage, perhaps with other settings, that it continues from.
    regenerated : RegeneratedDataset, optional
        Training rows in place of the originals.
    trust : Trust, optional
        What each training target counts, where that is learned.
    seconds : dict of str to float
        Time of each stage.
    reused : list of str
        Stages whose artifact was there.
    history : list of dict
        One entry for each epoch of each stage.
    reported : set of (str, int)
        Stage and epoch of what ``on_epoch`` was told.
    folders : dict of str to Path
        Where the artifact of each stage lies.
    known : dict of str to bool
        Keys of artifacts that this run, or another of the same call, uses; True if it was there before.
    """

    config: RaConfig
    splits: Splits
    store: ArtifactStore
    say: Callable[[str], None]
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    start_from: Path | None = None
    workers: Workers = field(default_factory=OneProcess)
    regenerated: RegeneratedDataset | None = None
    trust: Trust | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    reported: set[tuple[str, int]] = field(default_factory=set)
    folders: dict[str, Path] = field(default_factory=dict)
    known: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fields = Fields.of(self.config)
        self.vocabulary = self.splits.vocabulary_digest
        self.n_items = len(self.splits.whole.vocabulary)
        self.fingerprint = self.splits.fingerprint
        self.train_rows = self.splits.train.prefixes

    def with_settings(self, config: RaConfig) -> Run:
        """Return a run of other settings on the same data, which goes on with what this one makes."""
        found = Run(config, self.splits, self.store, self.say, workers=self.workers, known=self.known)
        found.training_part = self.training_part
        return found

    def took(self, stage: str, started: float) -> None:
        """Count the seconds since ``started`` as a stage's."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - started

    @functools.cached_property
    def training_part(self) -> TrainingPart:
        """Each user's training part; what learns from the data sees no more."""
        return TrainingPart(self.splits.train)

    def content(self, stage: str, after: Mapping[str, str] | None = None, **facts: Any) -> dict[str, Any]:
        """Return everything that a stage's result depends on; the digest of it is the stage's key.

        Parameters
        ----------
        stage : str
        after : mapping
            Keys of the stages whose results it reads.
        **facts
            What else it depends on.

        Raises
        ------
        ValueError
            If it reads a stage that it does not declare (``settings/stages.py``).
        """
        about, after = STAGES[stage], dict(after or {})
        if not after.keys() <= set(about.after):
            raise ValueError(f"stage {stage} declares {about.after}, but reads {sorted(after)}")
        start = self.start_of(stage)
        if start is not None:
            facts["start"] = digest_bytes(start.read_bytes())
        return {
            "stage": stage,
            "version": about.version,
            "data": self.fingerprint if about.sees_held_out else self.training_part.digest,
            "settings": self.config.shaping(stage),
            "after": after,
            **facts,
        }

    def start_of(self, stage: str) -> Path | None:
        """Return the checkpoint that a stage continues from: ``start_from`` for the last stage."""
        return self.start_from if stage == self.config.last_stage else None

    @property
    def training(self) -> CompactDataset:
        """What the backbone trains on: the training split, or what was regenerated from it."""
        return self.splits.train if self.regenerated is None else self.regenerated

    @property
    def training_sequences(self) -> SequenceTable:
        """The sequences of :attr:`training`, without anything that is held out."""
        return self.training_part.sequences if self.regenerated is None else self.regenerated.table

    def identity(self, model: str) -> dict[str, Any]:
        """Return what a checkpoint of that model is tied to."""
        return {
            "model": model,
            "vocabulary": self.vocabulary,
            "n_items": self.n_items,
            "training_part": self.training_part.digest,
            "rows": None if self.regenerated is None else self.regenerated.fingerprint(),
            "settings": self.config.built_with,
        }

    def load_given(self, path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Load a checkpoint that the user names.

        Raises
        ------
        CheckpointError
            If it cannot be read, is of another model or vocabulary, was built with other settings, or was
            trained on other rows than train here: it may have seen what is held out.
        """
        content = load_checkpoint(path, identity)
        found = content["identity"]
        if found.get("training_part") != self.training_part.digest:
            raise CheckpointError(
                f"{path}: was trained on other training rows than '{self.config.dataset}' has now, which "
                "may hold what is held out here; use the split and filters that it was trained with"
            )
        if found.get("rows") != identity.get("rows"):
            other = f"was trained on other rows than regenerate={self.config.regeneration.regenerate} gives"
            if not self.config.uses_retrieval or self.config.bank.memory_data != "regenerated":
                raise CheckpointError(
                    f"{path}: {other}; name the data that it was trained on with --regenerate"
                )
            self.say(f"{path}: {other}; these are remembered, not trained on")
        # An earlier version had not all settings: it trained as their defaults say.
        trained_with = {**self.config.model_defaults, **found["settings"]}
        for name, value in identity["settings"].items():
            if trained_with.get(name) != value:
                raise CheckpointError(
                    f"{path}: was trained with {name}={trained_with.get(name)}, not {value}; set it to match"
                )
        return content

    def evaluation(
        self,
        split: Any,
        model: Any,
        query: Callable[[IntArray], Any] | None = None,
        before: Callable[[], None] | None = None,
        only: IntArray | None = None,
    ) -> EvalBatches | None:
        """Make the evaluation batches of a split for a model, or None if it is empty.

        ``query``, ``before`` and ``only`` as :class:`EvalBatches` takes them.
        """
        if len(split) == 0:
            return None
        trim = isinstance(model, SequentialModel) and model.trims
        return EvalBatches(
            split,
            self.fields,
            batch_size=self.config["eval_batch_size"],
            trim=trim,
            query=query,
            before=before,
            only=only,
        )

    def after_epoch(self, entry: Mapping[str, Any], shown: Iterable[str] = ()) -> None:
        """Print a line on an epoch, and pass it on to the caller.

        Parameters
        ----------
        entry : mapping
            Of the history.
        shown : iterable of str
            Measures on the line beside the validation metric.
        """
        if self.config["show_progress"]:
            metric = split_metric(str(self.config["valid_metric"]))[1]
            measures = (metric, metric_key("masked", metric), *shown)
            valid = "".join(f"valid {name} {entry[name]:.4f}, " for name in measures if name in entry)
            ridge = f" (ridge {entry['ridge']:g})" if "ridge" in entry else ""
            self.say(
                f"{entry['stage']} epoch {entry['epoch']}{ridge}: loss {entry['loss']:.4f}, {valid}"
                f"{entry['seconds']:.1f} s"
            )
        self.report_epochs([entry])

    def report_epochs(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Pass on epochs that were trained before, so that the caller sees each of them, once."""
        for entry in history:
            epoch = (entry["stage"], entry["epoch"])
            if self.on_epoch is not None and epoch not in self.reported:
                self.reported.add(epoch)
                self.on_epoch(entry)

    @contextlib.contextmanager
    def making(self, content: Mapping[str, Any]) -> Iterator[Artifact]:
        """Yield the artifact that is made from ``content``: finished, or locked to be made here.

        Where another process is making the same, this waits for it, so that nothing is made twice.
        """
        stage, key = content["stage"], digest(content)
        made = Artifact(stage, key, content, self._find(stage, key))
        if made.found is None:
            with self.store.held(stage, key, lambda: self.say(f"{stage}: another run makes it; waiting")):
                made.found = self._find(stage, key)
                yield made
        else:
            yield made

    def _find(self, stage: str, key: str) -> Path | None:
        found = None
        if self.config.run.reuse or key in self.known:
            found = self.store.find(stage, key, lambda damage: self.say(f"{stage}: {damage}; made again"))
        if found is not None:
            self.folders[stage] = found
            if key not in self.known:
                self.say(f"{stage}: reused {found}")
            if self.known.setdefault(key, True) and stage not in self.reused:
                self.reused.append(stage)
        return found

    def start(self, artifact: Artifact, *, resume: bool | None = None) -> Path:
        """Prepare the folder to make an artifact in; emptied unless the run is resumed."""
        keep = self.config.run.resume if resume is None else resume
        return self.store.start(artifact.stage, artifact.key, resume=keep)

    def finish(self, artifact: Artifact) -> Path:
        """Give a finished artifact its final name."""
        folder = self.store.finish(artifact.stage, artifact.key, artifact.content)
        self.folders[artifact.stage] = folder
        self.known[artifact.key] = False
        return folder
