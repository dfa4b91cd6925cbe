"""The stages before the backbone: what its training data is made of (METHOD 1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest_bytes, write_bytes
from recbole_ra.core.store import MANIFEST
from recbole_ra.data.table import ORIGINS
from recbole_ra.data.training_part import RegeneratedDataset, check_originals
from recbole_ra.regeneration.files import read_sequences
from recbole_ra.regeneration.merge import RegeneratedData, merge
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.regeneration.pictures import statistics_plot, statistics_table
from recbole_ra.regeneration.regenerator import RegeneratorStages, source_windows
from recbole_ra.regeneration.statistics import RegenerationStatistics, regeneration_statistics
from recbole_ra.regeneration.trainer import DEV_LOSS
from recbole_ra.regeneration.weights import row_weights
from recbole_ra.report.plots import learning_curve
from recbole_ra.report.tables import render
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.declared import RegenerationSettings
from recbole_ra.settings.files import part_of, sequences_file
from recbole_ra.training.run import Run


@dataclass
class Regenerated:
    """A regenerated training split.

    Attributes
    ----------
    kept : RegeneratedData
        The rows that take part in training.
    train : RegeneratedDataset
        The same as a training split.
    statistics : RegenerationStatistics
    history : list of mapping
        Epochs of the regenerator, empty if none was trained.
    """

    kept: RegeneratedData
    train: RegeneratedDataset
    statistics: RegenerationStatistics
    history: list[dict[str, Any]]

    def facts(self, config: RaConfig) -> dict[str, Any]:
        """Settings, rows that train, and statistics, for a result or a manifest."""
        table = self.train.table
        return {
            "settings": self.made_with(config),
            "training_rows": len(table),
            "training_targets": int((table.lengths - 1).sum()),
            "statistics": self.statistics.to_dict(),
            "table": self.table(),
            "history": self.history,
        }

    @staticmethod
    def made_with(config: RaConfig) -> dict[str, Any]:
        """Settings with which the rows were made: of a set that was read, its own."""
        found = {**asdict(config.patterns), **asdict(config.regeneration)}
        for name in config.outside_stages(found):
            del found[name]
        return found | {name: value for name, value in config.made_with.items() if config.shapes_set(name)}

    def table(self) -> str:
        """Return the statistics as plain text."""
        return render(statistics_table(self.statistics))

    def save_pictures(self, folder: Path) -> None:
        """Write the statistics as ``regeneration.txt`` and ``.png``, and the regenerator's epochs."""
        write_bytes(folder / "regeneration.txt", self.table().encode())
        statistics_plot(self.statistics, folder / "regeneration.png")
        if any(DEV_LOSS in epoch for epoch in self.history):
            best = min(reversed(self.history), key=lambda epoch: epoch[DEV_LOSS])["epoch"]
            picture = folder / "regenerator.png"
            learning_curve(self.history, picture, metric=DEV_LOSS, best_epoch=best, title="regenerator")


def regeneration_stage(run: Run, mined: MinedPatterns) -> Regenerated | None:
    """Regenerate the training data as the settings say, or reuse what was; None if they say none.

    The run trains on it from then on.

    Raises
    ------
    DataError
        If there is no pattern, or a file of sequences does not fit the data set.
    """
    settings, started = run.config.regeneration, perf_counter()
    kind = settings.regenerate
    history: list[dict[str, Any]] = []
    if kind == "none":
        return None
    patterns, decoded, sources = None, None, source_windows(run, run.training_part.sequences)
    if kind in ("dr4sr", "patterns"):
        patterns = mined.table
        run.say(f"patterns: {len(patterns)}")
        if kind == "dr4sr":
            stages = RegeneratorStages(run, mined)
            decoded, history = stages.decoded(), stages.history()
        data = merge(
            run.training_part.sequences,
            patterns,
            None if decoded is None else decoded.to_table(sources),
            None if decoded is None else decoded.latent,
            support=None if patterns is None else mined.patterns.support,
            deduplicate=settings.deduplicate,
        )
    else:
        data = read_regenerated(run, Path(kind))
    data = data.repeat_originals(settings.original_copies)
    # A set holds no rarer rows any more, and no counts.
    kept = data if decoded is None else data.keep_repeated(settings.min_multiplicity)
    kept = kept.keep(settings.origins)
    if not len(kept.table):
        raise DataError(
            f"regenerate_origins={settings.regenerate_origins!r}: no row of that origin was made; name others"
        )
    statistics = regeneration_statistics(
        kept,
        run.training_part.sequences,
        patterns=patterns,
        decoded=decoded,
        sources=None if decoded is None else sources,
    )
    counts = zip(ORIGINS, np.bincount(kept.table.origin, minlength=len(ORIGINS)), strict=True)
    run.say(
        "training data: "
        + ", ".join(f"{count} {name}" for name, count in counts if name in settings.origins)
        + f" rows, {int((kept.table.lengths - 1).sum())} training targets"
    )
    run.took("regeneration", started)
    weights = row_weights(kept, settings.row_weight)
    run.regenerated = RegeneratedDataset(run.splits.train, kept.table, weights)
    return Regenerated(kept, run.regenerated, statistics, history)


def read_regenerated(run: Run, path: Path) -> RegeneratedData:
    """Read what ``recbole-ra regenerate`` wrote: the folder, or the file of sequences in it.

    Each original stands once in what is returned.

    Raises
    ------
    DataError
        If the file cannot be read or is not as it was written, or was made from another data set or split:
        held-out items might stand in it.
    """
    file = sequences_file(path)
    run.say(f"training data: {file}")
    made_from = run.config.manifest.get("training_part")
    if made_from not in (None, run.training_part.digest):
        raise DataError(
            f"{file}: was made from another data set or split (of {run.config.manifest.get('dataset')!r}) "
            f"than '{run.config.dataset}' is now; regenerate with these settings"
        )
    known = part_of(run.config.manifest, "files").get(file.name)
    data = read_sequences(file, run.splits.whole.vocabulary, user_tokens(run))
    if known is None:
        run.say(
            f"{file}: no readable {MANIFEST} beside it knows the file; that its pattern and decoded rows are "
            "of this data set and split, and complete, is not checked"
        )
    elif known != digest_bytes(file.read_bytes()):
        raise DataError(
            f"{file}: was cut or changed since {MANIFEST} was written; write the set again, or, if the rows "
            f"are to be these, delete {MANIFEST}"
        )
    check_originals(run.splits.train, data.table)
    copies = run.config.made_with.get("original_copies", RegenerationSettings.original_copies)
    try:
        return data.originals_once(copies)
    except ValueError as error:
        raise DataError(f"{file}: {error}, as {MANIFEST} says; write the set again") from error


def user_tokens(run: Run) -> list[str]:
    """User tokens by id; position 0 is padding."""
    whole = run.splits.whole
    return [str(token) for token in whole.field2id_token[whole.uid_field]]
