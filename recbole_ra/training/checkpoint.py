"""Checkpoints: written whole or not at all, loaded without running code, checked before use."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_ra.core.errors import CheckpointError
from recbole_ra.core.files import write_bytes

FORMAT = 2

BEST, LAST = "best.pt", "last.pt"
"""Files of a stage that trains: what it selects, and the state after its latest epoch."""

ENTRIES = {"identity": dict, "state_dict": dict, "history": list, "settings": dict}
IDENTITY = {"model": str, "vocabulary": str, "n_items": int, "training_part": str, "settings": dict}
EPOCH = {"stage": str, "epoch": int, "loss": (int, float)}
RESUMED = {
    "epoch": int,
    "cur_step": int,
    "mark": (int, float, type(None)),
    "best_valid_score": (int, float),
    "best_valid_result": (dict, type(None)),
    "optimizer": dict,
    "average": (dict, type(None)),
    "random_states": list,
}
"""What a checkpoint holds, with types; the last is read only where training goes on from it."""


def random_state() -> dict[str, Any]:
    """Return the state of every global generator, as tensors and plain values."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, following = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "python": [version, list(numbers), following],
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["accelerators"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Continue every global generator where :func:`random_state` saw it."""
    torch.set_rng_state(state["torch"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, following = state["python"]
    random.setstate((version, tuple(numbers), following))
    if "accelerators" in state and torch.cuda.is_available():
        for number, part in zip(range(torch.cuda.device_count()), state["accelerators"], strict=False):
            torch.cuda.set_rng_state(part, number)


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    write_bytes(path, buffer.getvalue())


def check_entries(path: Path, content: Any, entries: Mapping[str, Any]) -> None:
    """Check that a mapping of a checkpoint has what will be read of it.

    Raises
    ------
    CheckpointError
        For the first entry that is missing or of another type.
    """
    for name, kind in entries.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise CheckpointError(f"{path}: its entry '{name}' is missing or garbled; train the model again")


def load_checkpoint(path: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """Load a checkpoint that must belong to the same model and item vocabulary, to the CPU.

    Models, optimisers and generators move what they take over to where they need it.

    Parameters
    ----------
    path : Path
    identity : mapping
        What the caller is: ``model`` and ``vocabulary`` (digest of the item tokens).

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, or of another model or vocabulary.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums that are there
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"its part {damaged} was changed")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ValueError … on damage
        raise CheckpointError(
            f"{path}: not a readable checkpoint (truncated or of another kind); train again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of recbole_ra; train the model again")
    check_entries(path, content, ENTRIES)
    check_entries(path, content["identity"], IDENTITY)
    for epoch in content["history"]:
        check_entries(path, epoch, EPOCH)
    found = content["identity"]
    if found.get("model") != identity["model"]:
        raise CheckpointError(
            f"{path}: holds model {found.get('model')}, not {identity['model']}; use --model to match"
        )
    if found.get("vocabulary") != identity["vocabulary"]:
        raise CheckpointError(
            f"{path}: was trained on another item vocabulary ({found.get('n_items')} items, here "
            f"{identity['n_items']}); use the data set and filters that it was trained with"
        )
    return content


def load_weights(model: torch.nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Put weights into a model, with one clear line if their shapes differ."""
    broken = [name for name, values in state.items() if torch.is_tensor(values) and values.isnan().any()]
    if broken:
        raise CheckpointError(f"{path}: {broken[0]} holds NaN, so its training went wrong; train it again")
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        detail = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: the weights do not fit the model's settings: {detail}") from error
