"""What each stage computes on a small data set, as numbers that another machine gives too.

``python tests/golden.py`` writes ``golden.json`` anew. Do that after raising the version of a stage in
``recbole_ra/settings/stages.py``: results of the earlier version are then never reused for the new one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from walks import REGENERATION, settings_below, write_walks

FILE = Path(__file__).with_name("golden.json")


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """Run every stage below a folder; returns the version of each, and numbers of what it made."""
    from recbole_ra import run
    from recbole_ra.settings.stages import STAGES

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = settings_below(folder, write_walks(folder / "data"))
    remembering = {"memory_source": "both", "index_type": "IVFFlat", "nlist": 4, "beta": 0.5}
    retrieved = run("RaSASRec", **{**settings, **remembering}, say=lambda line: None)
    settings["checkpoint_dir"] = str(folder / "regenerated")
    regenerated = run("DR4SR", **settings, **REGENERATION, say=lambda line: None)
    torch.set_num_threads(threads)

    places = [*(folder / "saved").iterdir(), *(folder / "regenerated").iterdir()]
    found = {path.name.rpartition("-")[0]: _arrays(path) for path in places if path.is_dir()}
    origins = regenerated.regeneration["statistics"]["origins"]
    found["patterns"], found["rows"] = _leaves(origins["pattern"]), _leaves(origins)
    found["test_bank"] = [retrieved.memory["memories_at_test"], *retrieved.test["unmasked"].values()]
    return {stage: {"version": STAGES[stage].version, "numbers": found[stage]} for stage in STAGES}


def _arrays(folder: Path) -> list[float]:
    """Return size, mean magnitude and norm of every array and weight in an artifact."""
    found: list[float] = []
    for path in sorted(folder.rglob("*")):
        arrays: dict[str, Any] = {}
        if path.name == "best.pt":
            arrays = torch.load(path, weights_only=True)["state_dict"]
        elif path.suffix == ".npz":
            arrays = dict(np.load(path))
        elif path.suffix == ".npy":
            arrays = {"": np.load(path)}
        for _, values in sorted(arrays.items()):
            flat = np.asarray(values).ravel()
            if np.issubdtype(flat.dtype, np.number):
                flat = np.nan_to_num(flat.astype(np.float64), nan=-1.0)
                found += [flat.size, float(np.abs(flat).mean()), float(np.linalg.norm(flat))]
    return found


def _leaves(values: Any) -> list[float]:
    def walk(value: Any) -> Iterator[float]:
        if isinstance(value, dict):
            for key in sorted(value):
                yield from walk(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                yield from walk(item)
        elif isinstance(value, int | float):
            yield float(value)

    return list(walk(values))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(json.dumps(measure(Path(folder)), indent=1) + "\n")
    print(f"wrote {FILE}")
