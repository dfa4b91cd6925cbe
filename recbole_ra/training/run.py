"""What the stages of one run share: settings, data, the store of artifacts, and a clock."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_ra.core.errors import CheckpointError
from recbole_ra.core.files import ArtifactStore, digest, digest_bytes
from recbole_ra.core.workers import Alone, Workers
from recbole_ra.data.dataset import CompactDataset, Fields, Splits
from recbole_ra.data.table import IntArray
from recbole_ra.data.training_part import RegeneratedDataset, TrainingPart
from recbole_ra.models.recommenders import Recommender
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.checkpoint import load_checkpoint
from recbole_ra.training.loaders import EvalBatches

STAGE_VERSIONS = {"teacher": 1, "regenerator": 1, "decoded": 1, "backbone": 1, "bank": 1, "raft": 1}

# Settings that change neither what is trained nor how it is measured; a backbone that several workers
# train has their number in its key by itself.
NEUTRAL_KEYS = frozenset(
    """
    model output_dir checkpoint_dir data_path resume reuse show_progress state gpu_id use_gpu device worker
    log_wandb wandb_project save_dataset dataset_save_path save_dataloaders dataloaders_save_path config_files
    eval_batch_size metric_decimal_place loss_decimal_place backbone_checkpoint local_rank single_spec
    export_dir overwrite workers address nproc world_size offset ip port
    """.split()
)


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


@dataclass
class Run:
    """What the stages of one run share.

    ``start_from`` is a checkpoint of the last stage, perhaps with other settings, that it goes on from.
    """

    config: RaConfig
    splits: Splits
    store: ArtifactStore
    say: Callable[[str], None]
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    start_from: Path | None = None
    workers: Workers = field(default_factory=Alone)
    regenerated: RegeneratedDataset | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    reported: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fields = Fields.of(self.config)
        self.vocabulary = self.splits.vocabulary_digest
        self.n_items = len(self.splits.whole.vocabulary)
        self.fingerprint = self.splits.fingerprint
        self.train_rows = self.splits.train.prefixes

    @property
    def three(self) -> tuple[Any, Any, Any]:
        """Training, validation and test split."""
        return self.splits.train, self.splits.valid, self.splits.test

    @functools.cached_property
    def training_part(self) -> TrainingPart:
        """Each user's training part; what learns from the data sees no more."""
        return TrainingPart(self.splits.train)

    def start_of(self, stage: str) -> Path | None:
        """The checkpoint that a stage goes on from, if it is the one that was given one."""
        last = "raft" if self.config.uses_retrieval else "backbone"
        return self.start_from if stage == last else None

    @property
    def training(self) -> CompactDataset:
        """What the backbone trains on: the training split, or what was regenerated from it."""
        return self.splits.train if self.regenerated is None else self.regenerated

    def identity(self, model: str) -> dict[str, Any]:
        """What a checkpoint of that model is tied to."""
        return {
            "model": model,
            "vocabulary": self.vocabulary,
            "n_items": self.n_items,
            "training_part": self.training_part.digest,
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
        content = load_checkpoint(path, self.config.torch_device, identity)
        found = content["identity"]
        if found.get("training_part") != self.training_part.digest:
            raise CheckpointError(
                f"{path}: was trained on other training rows than '{self.config.dataset}' has now, which "
                "may hold what is held out here; use the split and filters that it was trained with"
            )
        trained_with = found.get("settings", {})
        for name, value in identity["settings"].items():
            if trained_with.get(name) != value:
                raise CheckpointError(
                    f"{path}: was trained with {name}={trained_with.get(name)}, not {value}; set it to match"
                )
        return content

    def evaluation(
        self, split: Any, model: Any, query: Callable[[IntArray], Any] | None = None
    ) -> EvalBatches | None:
        """Evaluation batches of a split for a model, or None if it is empty; see :class:`EvalBatches`."""
        if len(split) == 0:
            return None
        trim = isinstance(model, Recommender) and model.trims
        return EvalBatches(
            split, self.fields, batch_size=self.config["eval_batch_size"], trim=trim, query=query
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
            measures = (str(self.config["valid_metric"]).lower(), *shown)
            valid = "".join(f"valid {name} {entry[name]:.4f}, " for name in measures if name in entry)
            self.say(
                f"{entry['stage']} epoch {entry['epoch']}: loss {entry['loss']:.4f}, {valid}"
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
        """The artifact that is made from ``content``: one that is finished, or the right to make it.

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
        found = self.store.find(stage, key) if self.config.run.reuse else None
        if found is not None:
            self.reused.append(stage)
            self.say(f"{stage}: reused {found}")
        return found

    def start(self, artifact: Artifact, *, resume: bool | None = None) -> Path:
        """The folder to make an artifact in; emptied unless the run is resumed."""
        keep = self.config.run.resume if resume is None else resume
        return self.store.start(artifact.stage, artifact.key, resume=keep)

    def finish(self, artifact: Artifact) -> Path:
        """Give a finished artifact its final name."""
        return self.store.finish(artifact.stage, artifact.key, artifact.content)


def training_content(run: Run, stage: str, **inputs: Any) -> dict[str, Any]:
    """Everything that a training stage depends on."""
    config = run.config
    others = (config.patterns, config.regeneration, config.bank, config.raft)
    other_stages = {field.name for settings in others for field in dataclasses.fields(settings)}
    # A key that the backbone's own default files name (n_heads, a model's alpha) shapes the backbone too.
    skip = NEUTRAL_KEYS | (other_stages - set(config.internal_config_dict))
    settings = {key: repr(value) for key, value in config.final_config_dict.items() if key not in skip}
    start = run.start_of(stage)
    if start is not None:
        inputs["start"] = digest_bytes(start.read_bytes())
    return {
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
