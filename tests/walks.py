"""A small data set that trains in a second, the settings that go with it, and no time for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SMALL: dict[str, Any] = {
    "epochs": 4,
    "raft_epochs": 3,
    "train_batch_size": 128,
    "raft_batch_size": 128,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_neighbors": 5,
    "index_type": "Flat",
    "learning_rate": 0.01,
    "ema_decay": 0.9,
    "user_inter_num_interval": "[3,inf)",
    "show_progress": False,
}

REGENERATION: dict[str, Any] = {
    "regenerate": "dr4sr",
    "regenerator_width": 16,
    "regenerator_inner": 32,
    "regenerator_epochs": 2,
    "teacher_epochs": 2,
    "n_latents": 2,
    "decode_length": 6,
}


def silent(line: str) -> None:
    """Takes what a run says."""


def write_walks(folder: Path, name: str = "walks", users: int = 80, items: int = 30, seed: int = 0) -> Path:
    """Noisy walks over a ring of items, as an atomic file; returns the folder of data sets."""
    rng = np.random.default_rng(seed)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        item = int(rng.integers(items))
        for time in range(int(rng.integers(6, 14))):
            rows.append(f"u{user}\ti{item}\t{1000 * user + time}")
            item = (item + 1) % items if rng.random() < 0.8 else int(rng.integers(items))
    target = folder / name
    target.mkdir(parents=True)
    (target / f"{name}.inter").write_text("\n".join(rows) + "\n")
    return folder


def settings_below(folder: Path, walks: Path) -> dict[str, Any]:
    """Settings of a run on the walks that writes below a folder."""
    return {
        **SMALL,
        "dataset": "walks",
        "data_path": str(walks),
        "output_dir": str(folder / "runs"),
        "checkpoint_dir": str(folder / "saved"),
    }


def leave_undrawn(figure: Any, file: BinaryIO, **options: Any) -> None:
    """Stand in for ``Figure.savefig``, which takes longer than training on the walks."""
    file.write(b"not drawn")
