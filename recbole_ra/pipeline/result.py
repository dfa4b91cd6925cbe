"""The result of a run, and the folder that it leaves."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_ra.core.errors import CheckpointError, RecboleRaError
from recbole_ra.core.files import explain_disk_errors, remove, replacing, write_bytes, write_json
from recbole_ra.inference.files import LATEST
from recbole_ra.report.plots import gains_by_group, learning_curve, weight_curve
from recbole_ra.report.tables import metrics_table, render
from recbole_ra.retrieval.finetuning import RAFT
from recbole_ra.settings.recbole import metric_key, split_metric
from recbole_ra.training.evaluation import PROTOCOLS, flat_result


@dataclass(repr=False)
class Result:
    """The outcome of one run.

    Attributes
    ----------
    model, dataset : str
    test, valid : mapping
        Protocol (``unmasked``, ``masked``) -> RecBole's metric names -> value.
    backbone_test, backbone_valid : mapping or None
        The same of the backbone alone, where the model is a retrieval-augmented one.
    history : list of mapping
        One entry an evaluated epoch, each with its ``stage``.
    settings, versions, data : mapping
        Every setting; versions of what computed; the data set's sizes and fingerprint.
    regeneration : mapping
        What the training data was made of, where it was regenerated: origins and statistics; and how it was
        chosen, where it was.
    personalisation : mapping
        How much training targets counted, by origin, where that was learned; the rows most and least trusted.
    seconds : mapping
        Wall-clock of each stage; a reused stage says so in ``reused``.
    folder : str
        Where the run wrote ``result.json`` and its pictures.
    """

    model: str
    dataset: str
    test: dict[str, dict[str, float]]
    valid: dict[str, dict[str, float]]
    backbone_test: dict[str, dict[str, float]] | None
    backbone_valid: dict[str, dict[str, float]] | None
    history: list[dict[str, Any]]
    settings: dict[str, Any]
    versions: dict[str, str]
    data: dict[str, Any]
    seconds: dict[str, float]
    reused: list[str] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    regeneration: dict[str, Any] = field(default_factory=dict)
    personalisation: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    def table(self) -> str:
        """Test metrics as plain text, or validation metrics if the test was not looked at.

        Of a model that ranks nothing, what it made.
        """
        if not self.test and not self.valid and self.regeneration:
            return str(self.regeneration["table"])
        if not self.test:
            return render(
                metrics_table({f"validation, {name}": values for name, values in self.valid.items()})
            )
        rows = dict(self.test)
        if self.backbone_test is not None:
            rows = {f"{self.model} {name}": values for name, values in self.test.items()}
            backbone = self.model.removeprefix("Ra")
            rows.update({f"{backbone} {name}": values for name, values in self.backbone_test.items()})
        notes = (about.get("note") for about in (self.regeneration, self.memory))
        return render(metrics_table(rows)) + "".join(f"{note}\n" for note in notes if note)

    def save(self, folder: Path, metric: str, *, bigger: bool) -> None:
        """Write ``result.json``, ``table.txt`` and ``learning_curve.png`` into a folder."""
        self.folder = str(folder)
        write_json(folder / "result.json", asdict(self))
        write_bytes(folder / "table.txt", self.table().encode())
        name = split_metric(metric)[1]
        if any(metric in entry for entry in self.history):
            learning_curve(
                [*self.history, *self._before_finetuning()],
                folder / "learning_curve.png",
                metric=metric,
                best_epoch=self.best_epochs(metric, bigger=bigger),
                title=f"{self.model} on {self.dataset}",
                besides=[name, metric_key("masked", name)],
            )

        self._draw_retrieval(folder)

    def _before_finetuning(self) -> list[dict[str, Any]]:
        """Return the backbone as the epoch before the first of fine-tuning, where both were measured."""
        if not self.backbone_valid or all(entry["stage"] != RAFT for entry in self.history):
            return []
        return [{"stage": RAFT, "epoch": -1, **flat_result(self.backbone_valid)}]

    def _draw_retrieval(self, folder: Path) -> None:
        """Draw how much the memories may say, and for whom they helped."""
        choice: dict[str, Any] = self.memory.get("choice") or {"steps": []}
        comparison = self.memory.get("comparison")
        title = f"{self.model} on {self.dataset}"
        for step in choice["steps"]:
            weight, chosen = step["weight"], step["chosen"]
            others, tried_with = (
                {name: value for name, value in setting.items() if name != weight}
                for setting in (chosen, step["candidates"][0]["setting"])  # all weights were tried with those
            )
            curves: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PROTOCOLS}
            used: dict[str, tuple[float, float, float]] = {}
            for candidate in step["candidates"]:
                setting = candidate["setting"]
                for protocol in PROTOCOLS:
                    gain, error = candidate["gain"][protocol], candidate["error"][protocol]
                    point = setting[weight], gain, math.nan if error is None else error
                    if tried_with.items() <= setting.items():
                        curves[protocol].append(point)
                    if setting == chosen:
                        used[protocol] = point
            about = "".join(f", {name} {value:g}" for name, value in tried_with.items())
            label = "".join(f", {name} {value:g}" for name, value in others.items() if others != tried_with)
            weight_curve(
                curves,
                used,
                folder / f"{weight}.png",
                weight=weight,
                label=f"chosen: {chosen[weight]:g}{label}",
                metric=choice["metric"],
                title=title + about,
            )
        if comparison is not None:
            shown = comparison["unmasked"]
            title = f"{title}: gain over the backbone, unmasked, p = {shown['p_value']:.2g}"
            picture = folder / "retrieval_gain.png"
            gains_by_group(shown["groups"], picture, metric=shown["metric"], title=title)

    def best_epochs(self, metric: str, *, bigger: bool) -> dict[str, int]:
        """Return the selected epoch of each stage: the last of the best, as early stopping keeps it."""
        best: dict[str, tuple[float, int]] = {}
        for entry in self.history:
            if metric not in entry:
                continue
            value = entry[metric] if bigger else -entry[metric]
            if value >= best.get(entry["stage"], (-math.inf, 0))[0]:
                best[entry["stage"]] = (value, entry["epoch"])
        return {stage: epoch for stage, (_, epoch) in best.items()}

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """Read the result that a run left in its folder, wherever that is now.

        Raises
        ------
        CheckpointError
            If there is none.
        """
        path = Path(folder) / "result.json"
        try:
            found = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: is missing or damaged; name the folder of a run") from error
        found.folder = str(folder)
        return found

    def __repr__(self) -> str:
        metric = split_metric(self.settings["valid_metric"])[1] if self.settings else ""
        measured = self.test or self.valid
        values = ", ".join(
            f"{protocol} {measured[protocol][metric]:.4f}"
            for protocol in PROTOCOLS
            if metric in measured.get(protocol, {})
        )
        split = "test" if self.test else "validation"
        found = f"{split} {metric} {values}" if values else "nothing was ranked"
        return f"<Result {self.model} on {self.dataset}: {found}; {self.folder}>"


def link_latest(folder: Path, say: Callable[[str], None]) -> None:
    """Let ``latest`` beside a run's folder name it, from one moment to the next; says so where it cannot."""
    link = folder.with_name(LATEST)
    try:
        if link.exists() and not link.is_symlink():
            raise FileExistsError(f"{link} is no link")
        with replacing(link) as temporary:
            remove(temporary)
            temporary.symlink_to(folder.name, target_is_directory=True)
    except (OSError, NotImplementedError, RecboleRaError) as error:
        say(f"{link} does not name this run ({error}); name its folder instead")


def new_run_folder(root: Path, model: str, dataset: str) -> Path:
    """Create ``root/model-dataset-time``, with a counter if it exists."""
    base = root / f"{model}-{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    with explain_disk_errors(base):
        for attempt in range(1000):
            folder = base if attempt == 0 else base.with_name(f"{base.name}-{attempt}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
    raise FileExistsError(base)
