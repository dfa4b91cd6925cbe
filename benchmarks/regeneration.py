"""Original and regenerated training data beside each other, mean ± standard deviation over seeds.

    python benchmarks/regeneration.py --models=SASRec --datasets=amazon-beauty --data_path=dataset \\
        --config_files=props/preset/dr4sr-released.yaml,props/preset/dr4sr-released-{model}.yaml

A cell is a model on a data set with some training data and a seed; regenerator and decoded rows are made with
the seed, too. Everything is selected on validation; each cell's test is computed once. ``--steps=N`` adds the
same cells at N optimisation steps each, without early stopping, which tells the data's effect from that of
longer training; where a cell had its best epoch before N and its last after it, that is its answer already.

Training data may have settings of its own after colons, as in ``--data=original,patterns:row_weight=support``
or ``dr4sr:regenerate=FOLDER``, a set that ``recbole-ra regenerate`` wrote. While settings are being chosen,
``--no-test`` measures validation alone.

A finished cell is a file in ``--cells``, so that several calls can share the cells out, and a last one
over all of them prints the table. ``{model}`` in ``--config_files`` is the cell's. Further words are
settings, as on the command line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command import start

from recbole_ra import Result, run
from recbole_ra.cli import parse_settings
from recbole_ra.core.files import digest, write_json
from recbole_ra.settings.files import read_files

DATA: dict[str, dict[str, Any]] = {
    "original": {"regenerate": "none"},
    # The authors' files hold the originals once beside patterns alone, and twice beside decoded rows.
    "patterns": {"regenerate": "patterns", "original_copies": 1},
    "no-diversity": {"regenerate": "dr4sr", "diversity": False},
    "dr4sr": {"regenerate": "dr4sr"},
    "dr4sr+": {"regenerate": "dr4sr+"},
    "end-to-end": {"regenerate": "dr4sr", "personalize": "end-to-end"},
    "auto": {"regenerate": "auto"},
}
"""Training data by name, each with its settings."""

HERE = ("deduplicate", "variant", "balance_weight")
"""Settings of what is regenerated here; left out where nothing is, or a folder is read."""

PLACES = {
    "data_path",
    "output_dir",
    "checkpoint_dir",
    "save_model",
    "show_progress",
    "use_gpu",
    "gpu_id",
    "resume",
}
"""Settings that say where and how a cell is run, not what it is."""

NAMED = ("model", "dataset", "seed")
"""Settings that options of this script name; those of a file do not count."""

SHOWN = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")


def cell_settings(data: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a cell: those of all, and those of its training data."""
    kind, *own = data.split(":")
    found = {**settings, **DATA[kind], **parse_settings([f"--{word}" for word in own])[0]}
    found = {key: value for key, value in found.items() if key not in NAMED}
    if found["regenerate"] not in ("patterns", "dr4sr", "dr4sr+", "auto"):
        found = {key: value for key, value in found.items() if key not in HERE}
    if found["regenerate"] == "none":
        found.pop("original_copies", None)
    return found


def cell(folder: Path, name: Mapping[str, Any], settings: Mapping[str, Any], *, test: bool) -> dict[str, Any]:
    """Run one cell, or read what an earlier call found with the same settings."""
    about = {**name, "settings": {key: value for key, value in settings.items() if key not in PLACES}}
    words = "-".join(re.sub(r"[^\w.+-]+", "_", str(part)) for part in name.values())
    path = folder / f"{words}-{digest(about)[:8]}-{'test' if test else 'valid'}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    print(f"== {path.stem}", file=sys.stderr)
    result = run(name["model"], name["dataset"], seed=name["seed"], evaluate_test=test, **settings)
    found = {**about, **facts(result, name["model"])}
    write_json(path, found)
    return found


def facts(result: Result, model: str) -> dict[str, Any]:
    """Return what the table shows of a result."""
    epochs = [epoch for epoch in result.history if epoch["stage"] == model.removeprefix("Ra")]
    metric = result.settings["valid_metric"].lower()
    sign = 1 if result.settings["valid_metric_bigger"] else -1
    validated = [epoch for epoch in epochs if metric in epoch]
    best = max(validated, key=lambda epoch: (sign * epoch[metric], epoch["epoch"]))
    steps = best["steps"]
    return {
        "test": result.test,
        "valid": result.valid,
        "rows": result.regeneration.get("training_rows", result.data["users"]),
        "targets": result.regeneration.get("training_targets", result.data["train"]),
        "steps_per_epoch": steps,
        "best_step": sum(epoch["steps"] for epoch in epochs if epoch["epoch"] <= best["epoch"]),
        "epochs": len(epochs),
        "best_epoch": best["epoch"],
        "seconds_per_epoch": statistics.median(epoch["seconds"] for epoch in epochs),
    }


def has_seen(found: Mapping[str, Any], epochs: int) -> bool:
    """Tell whether training for so many epochs would find the same again; not of a choice among trainings."""
    is_choice = found["settings"]["regenerate"] == "auto"
    return not is_choice and found["best_epoch"] < epochs <= found["epochs"]


def shown(found: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation, or the one value."""
    mean = f"{statistics.mean(found):.{digits}f}".lstrip("0")
    return mean if len(found) < 2 else f"{mean} ± {statistics.stdev(found):.{digits}f}".replace("± 0", "± ")


def table(title: str, cells: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print a table in Markdown: one row for each training data, with gains over the first."""
    first = next(iter(cells))
    heads = [f"{protocol} {metric}" for protocol in ("masked", "unmasked") for metric in SHOWN]
    print(f"\n| {title} | rows (targets) | best epoch (steps) | s / epoch | " + " | ".join(heads) + " |")
    print("|" + "---|" * (4 + len(heads)))
    for name, found in cells.items():
        epoch = statistics.mean(one["best_epoch"] + 1 for one in found)
        steps = statistics.mean(one["best_step"] for one in found)
        columns = [
            f"{name} ({len(found)})",
            f"{found[0]['rows']:,} ({found[0]['targets']:,})",
            f"{epoch:.0f} ({steps:,.0f})",
            f"{statistics.mean(one['seconds_per_epoch'] for one in found):.1f}",
        ]
        for protocol, metric in itertools.product(("masked", "unmasked"), SHOWN):
            values, before = (
                [(one["test"] or one["valid"])[protocol][metric] for one in part]
                for part in (found, cells[first])
            )
            base = statistics.mean(before)
            gain = "" if name == first else f" ({100 * (statistics.mean(values) / base - 1):+.1f} %)"
            columns.append(shown(values) + gain)
        print("| " + " | ".join(columns) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="SASRec")
    parser.add_argument("--datasets", default="amazon-beauty")
    parser.add_argument("--seeds", default="2020,2021,2022")
    parser.add_argument("--data", default="original,patterns,no-diversity,dr4sr", help=", ".join(DATA))
    parser.add_argument("--steps", type=int, help="optimisation steps of each cell, besides equal patience")
    parser.add_argument(
        "--cells", type=Path, default=Path("runs/regeneration"), help="folder of finished cells"
    )
    parser.add_argument("--no-test", action="store_true", help="measure validation alone")
    given, words = parser.parse_known_args()
    settings, files = parse_settings(words)
    settings.setdefault("save_model", False)
    for data in given.data.split(","):
        if data.split(":")[0] not in DATA:
            parser.error(f"--data: {data!r} is none of {', '.join(DATA)}")
    given.cells.mkdir(parents=True, exist_ok=True)
    for model, dataset in itertools.product(given.models.split(","), given.datasets.split(",")):
        of_files = read_files(file.replace("{model}", model.removeprefix("Ra")) for file in files)
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for data, seed in itertools.product(given.data.split(","), given.seeds.split(",")):
            name = {"model": model, "dataset": dataset, "data": data, "seed": int(seed)}
            chosen = cell_settings(data, {**of_files, **settings})
            patient = cell(given.cells, name, chosen, test=not given.no_test)
            found.setdefault("equal patience", {}).setdefault(data, []).append(patient)
            if given.steps is not None:
                epochs = max(1, round(given.steps / patient["steps_per_epoch"]))
                chosen.update(epochs=epochs, stopping_step=epochs)
                again = not has_seen(patient, epochs)
                equal = cell(given.cells, name, chosen, test=not given.no_test) if again else patient
                found.setdefault(f"{given.steps} steps", {}).setdefault(data, []).append(equal)
        for how, cells in found.items():
            table(f"{model}, {dataset}, {how}", cells)


if __name__ == "__main__":
    start(main)
