"""How often the transitions of a regenerated data set come true in what was held out.

    python benchmarks/held_out_pairs.py dataset/beauty-dr4sr --data_path=dataset --dataset=amazon-beauty

A transition (a, b) comes true once for each time that a is among the last five training items of a
user whose validation item is b. Given are the distinct transitions of each origin, those of them that stand
in no original row, how often a thousand of each come true, and what chance would do: the same new
transitions with their second items shuffled. This looks at validation items to understand, not to choose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from command import start

from recbole_ra.core.store import ArtifactStore
from recbole_ra.data.dataset import Splits
from recbole_ra.data.table import IntArray, Origin
from recbole_ra.regeneration.stage import read_regenerated
from recbole_ra.regeneration.statistics import transitions
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.run import Run

RECENT = 5


def validation_pairs(run: Run) -> IntArray:
    """One (recent training item, validation item) a number, each as often as it occurs."""
    prefixes = run.splits.valid.prefixes
    table, target = prefixes.table, prefixes.targets
    pairs = []
    for back in range(1, RECENT + 1):
        there = prefixes.position >= back
        before = table.items[prefixes.flat_position[there] - back].astype(np.int64)
        pairs.append(before * table.n_items + target[there])
    return np.concatenate(pairs)


def come_true(distinct: IntArray, held_out: IntArray) -> float:
    """Occurrences in the held-out pairs of a thousand transitions."""
    return 1e3 * float(np.isin(held_out, distinct).sum()) / max(len(distinct), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `recbole-ra regenerate` wrote")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    given = parser.parse_args()
    settings = {"data_path": given.data_path, "show_progress": False, "state": "ERROR"}
    settings["regenerate"] = str(given.folder)
    config = RaConfig("SASRec", given.dataset, overrides=settings)
    run = Run(config, Splits.load(config), ArtifactStore(Path("saved")), print)
    data, held_out = read_regenerated(run, given.folder), validation_pairs(run)
    part = run.training_part.sequences
    known, n_items = np.unique(transitions(part)), part.n_items
    for origin in Origin:
        distinct = np.unique(transitions(data.keep([origin.name.lower()]).table))
        new = distinct[~np.isin(distinct, known)]
        shuffled = np.unique(new // n_items * n_items + np.random.default_rng(0).permutation(new % n_items))
        shuffled = shuffled[~np.isin(shuffled, known)]
        print(
            f"{origin.name.lower():12s} {len(distinct):7d} transitions, {come_true(distinct, held_out):6.1f} "
            f"in a thousand come true; {len(new):7d} new, {come_true(new, held_out):6.1f}, "
            f"shuffled {come_true(shuffled, held_out):5.1f}"
        )


if __name__ == "__main__":
    start(main)
