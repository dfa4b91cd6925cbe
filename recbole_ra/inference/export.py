"""What other stacks take: the encoder in ONNX; item vectors, tokens and memories as plain files."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recbole_ra.core.console import show
from recbole_ra.core.errors import RecboleRaError, RequestError
from recbole_ra.core.files import whole_folder
from recbole_ra.inference.loading import load
from recbole_ra.inference.recommender import Recommender
from recbole_ra.models.backbone import Backbone
from recbole_ra.models.recommenders import BackboneRecommender, SequentialModel

ENCODER = "encoder.onnx"
TOLERANCE = 1e-5
"""Largest difference of a state in onnxruntime and torch."""

_TRIED = ((1, 1), (1, None), (2, 3), (7, None), (64, None))
"""Histories at once, and the longest of them, when the encoder is checked; None is as long as can be."""

_ABOUT = {
    "encoder.onnx": "history [B, L] int64, right-padded with 0, and length [B] int64 -> state [B, D] float32",
    "item_vectors.npy": "[N, D] float32; row = item id, row 0 is padding; score = state . vector + bias",
    "item_bias.npy": "[N] float32; constant part of each item's score",
    "items.csv": "id, item (token) and title",
    "memory_keys.npy": "[M, D] float32; states of the encoder, to be compared by cosine",
    "memory_values.npy": "[M] int64; id of the item that followed",
    "memory_owners.npy": "[M] int64; number of the owner, -1 for a mined pattern; no tokens of users",
    "memory.index": "faiss index over the keys at length 1 (inner product); ids are rows of memory_keys.npy",
}


def export(words: Sequence[str]) -> int:
    """Write what other programs read."""
    parser = argparse.ArgumentParser(
        prog="recbole-ra export", description="Write vectors and memories as plain files.", allow_abbrev=False
    )
    latest = Path("runs/latest")
    parser.add_argument(
        "run", nargs="?", type=Path, default=latest, help=f"folder that a run left (default: {latest})"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument("--onnx", action="store_true", help="the encoder too (SASRec, DuoRec), checked")
    given = parser.parse_args(words)
    if given.out.exists():
        raise RequestError(f"{given.out}: exists; name another folder")
    recommender = load(given.run)
    lines = export_files(recommender, given.out, onnx=given.onnx)
    show("\n".join([f"{given.out}:", *(f"  {line}" for line in lines)]))
    return 0


def export_files(recommender: Recommender, folder: Path, *, onnx: bool) -> list[str]:
    """Write vectors, tokens and memories, and the encoder if asked for; returns a line for each file.

    Raises
    ------
    RequestError
        If the model has no vectors of items, or its encoder cannot be exported.
    """
    model = recommender.scorer.model
    if not isinstance(model, SequentialModel):
        raise RequestError(
            f"export: {recommender.about.model} does not tell a state from vectors of items; use SASRec, "
            "DuoRec, or a model with Ra before it"
        )
    backbone = _backbone(recommender) if onnx else None
    said: dict[str, str] = {}
    with whole_folder(folder) as part:
        arrays: dict[str, Any] = {"item_vectors": model.item_table, "item_bias": model.item_bias}
        memory = recommender.memory
        if memory is not None:
            bank = memory.bank
            arrays |= {"memory_keys": bank.keys, "memory_values": bank.values, "memory_owners": bank.users}
            bank.index.save(part / "memory.index")
            said["memory.index"] = f"{bank.index.kind}, {len(bank.index)} memories"
        for name, values in arrays.items():
            if values is not None:
                array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
                np.save(part / f"{name}.npy", array, allow_pickle=False)
                said[f"{name}.npy"] = f"{array.dtype} {list(array.shape)}"
        said["items.csv"] = f"{_write_items(recommender, part / 'items.csv')} items"
        if backbone is not None:
            worst = write_encoder(backbone, part / ENCODER)
            said[ENCODER] = f"largest difference to torch in onnxruntime {worst:.1e}"
        about = {
            "model": recommender.about.model,
            "dataset": recommender.about.dataset,
            "longest_history": recommender.scorer.max_length,
            "notes": [*_notes(recommender)],
            "versions": dict(recommender.about.versions),
            "files": {name: {"content": _ABOUT[name], "is": what} for name, what in sorted(said.items())},
        }
        (part / "README.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return [f"{name}: {what}" for name, what in sorted(said.items())]


def _notes(recommender: Recommender) -> Iterator[str]:
    """Say what the files leave out of a score."""
    model, memory = recommender.scorer.model, recommender.memory
    if memory is not None:
        yield "the encoder's states are keys and queries of memories, before any is fused in"
    base = model if memory is None else memory.base
    if isinstance(base, BackboneRecommender) and base.backbone.history_bias is not None:
        yield "items of the history get a learned term besides, which is not here"


def _write_items(recommender: Recommender, path: Path) -> int:
    items = recommender.items
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "item", "title"])
        writer.writerows(
            [number, items.names[number], items.title(number)] for number in range(1, len(items))
        )
    return len(items) - 1


def _backbone(recommender: Recommender) -> Backbone:
    memory = recommender.memory
    model = recommender.scorer.model if memory is None else memory.base
    if not isinstance(model, BackboneRecommender):
        raise RequestError(
            f"export: the encoder of {recommender.about.model} is RecBole's own, which --onnx does not take; "
            "leave --onnx out, or use SASRec or DuoRec"
        )
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise RecboleRaError(f"export: {', '.join(missing)} missing; pip install 'recbole_ra[onnx]'")
    return model.backbone


class _Encoder(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        """Encode right-padded histories: [B, L], [B] -> [B, D]."""
        return self.backbone.represent(history, length)


@torch.no_grad()
def write_encoder(backbone: Backbone, path: Path) -> float:
    """Write the encoder in ONNX, and compare it with torch on made-up histories.

    Parameters
    ----------
    backbone : Backbone
    path : Path

    Returns
    -------
    float
        The largest difference of a number in a state.

    Raises
    ------
    RequestError
        If it is larger than :data:`TOLERANCE`.
    """
    import onnx
    import onnxruntime

    encoder = _Encoder(backbone).eval()
    batch, places = torch.export.Dim("batch"), torch.export.Dim("places", min=1, max=backbone.max_length)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            encoder,
            _histories(backbone, 3),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["history", "length"],
            output_names=["state"],
            dynamic_shapes={"history": {0: batch, 1: places}, "length": {0: batch}},
        )
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows, longest in _TRIED:
        history, length = _histories(backbone, rows, longest)
        found: NDArray[np.float32] = session.run(
            None, {"history": history.numpy(), "length": length.numpy()}
        )[0]
        difference = np.abs(found - encoder(history, length).cpu().numpy()).max()
        worst = max(worst, float(difference) if np.isfinite(difference) else np.inf)
    if worst > TOLERANCE:
        raise RequestError(
            f"export: the encoder differs by {worst:.1e} between torch and onnxruntime, more than "
            f"{TOLERANCE}; nothing was written"
        )
    return worst


def _histories(backbone: Backbone, rows: int, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Make histories of all lengths, the first of them the longest."""
    longest = min(longest or backbone.max_length, backbone.max_length)
    rng = np.random.default_rng(rows)
    length = rng.integers(1, longest + 1, rows)
    length[0] = longest
    history = rng.integers(1, backbone.n_items, (rows, longest))
    history *= np.arange(longest) < length[:, None]
    return torch.from_numpy(history), torch.from_numpy(length)
