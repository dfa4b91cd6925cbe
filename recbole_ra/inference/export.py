"""Write what a run left as plain files, for other programs: vectors, memories, and the encoder as ONNX."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_ra import __version__
from recbole_ra.core.errors import RequestError
from recbole_ra.core.files import explain_disk_errors, whole_folder, write_array, write_bytes, write_json
from recbole_ra.inference.encoder import ENCODER, checked_encoder, real_histories, require_onnx
from recbole_ra.inference.requests import Requests
from recbole_ra.inference.similar import scored_by_vectors
from recbole_ra.models.recommenders import BackboneRecommender, SequentialModel
from recbole_ra.retrieval.index import Index
from recbole_ra.retrieval.mixture import NeighbourMixture, TransitionMixture
from recbole_ra.retrieval.recommender import RetrievalRecommender

if TYPE_CHECKING:
    from recbole_ra.inference.recommender import Recommender

README = "README.json"
FORMAT = 1
_ITEMS, _BIAS, _SLOPE, _NAMES = "items.npy", "item_bias.npy", "history_bias.npy", "items.csv"
_MEMORY, _INDEX = "memory", "memory/index.faiss"
_COLUMNS = {
    "keys": "state of the history of each memory, as the encoder gives it",
    "values": "id of the item that followed",
    "users": "number of the user; -1: none, a mined pattern. Names of users are not exported",
    "lengths": "items of the history",
    "times": "when the item followed; NaN: unknown",
    "recent": "ids of the latest items of the history, the last one first; 0: none",
}
_VOTES = {
    "data": "how strongly an item of a history votes for one that may follow: a matrix of items by items as "
    "compressed sparse rows (scipy.sparse.csr_array)",
    "indices": "its columns",
    "indptr": "where each of its rows begins",
}


def export(recommender: Recommender, folder: Path, *, onnx: bool = False, overwrite: bool = False) -> Path:
    """Write what other programs need to a folder that appears whole or not at all.

    Parameters
    ----------
    recommender : Recommender
    folder : Path
    onnx : bool
        The encoder too, as ONNX; it is run and compared with torch first.
    overwrite : bool
        Replace an earlier export.

    Returns
    -------
    Path
        The folder, without links.

    Raises
    ------
    RequestError
        If something lies there, or the model has no vectors of items or, with ``onnx``, no encoder of ours.
    RecboleRaError
        If a package is missing, or the ONNX file gives other states than torch.
    """
    folder = check_folder(folder, overwrite=overwrite)
    if onnx:
        require_onnx()
    model = scored_by_vectors(recommender, "export")
    _check_vectors(recommender, model)
    arrays, about = _contents(recommender, model)
    encoder = None
    if onnx:  # before anything is written: an encoder that differs leaves nothing
        encoder, about["encoder"] = checked_encoder(recommender, model)
    with whole_folder(folder) as part:
        files: dict[str, dict[str, Any]] = {
            _NAMES: {"what": "id, token and title of every item but padding; UTF-8, tokens are text"}
        }
        _write_names(part / _NAMES, recommender)
        for name, (array, what) in arrays.items():
            (part / name).parent.mkdir(exist_ok=True)
            write_array(part / name, array)
            files[name] = {"shape": list(array.shape), "dtype": str(array.dtype), "what": what}
        if isinstance(model, RetrievalRecommender):
            index = _faiss_index(model)
            index.save(part / _INDEX)
            files[_INDEX] = {
                "what": f"FAISS index ({index.kind}, inner product) over the keys scaled to length 1; an id "
                f"is a row of {_MEMORY}/*.npy. Scale a query to length 1, too"
            }
        if encoder is not None:
            write_bytes(part / ENCODER, encoder)
            files[ENCODER] = {"what": "the encoder of histories; see 'encoder'"}
        write_json(part / README, {"export_format": FORMAT, "files": files, **about})
        check_folder(folder, overwrite=overwrite)
    return folder


def check_folder(folder: Path, *, overwrite: bool) -> Path:
    """Refuse a folder that cannot be written; gives it without links.

    Raises
    ------
    RequestError
        If there is something already and ``overwrite`` is not set, or if it holds what no export wrote.
    """
    folder = folder.resolve()
    with explain_disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"{folder}: is a file; name another folder")
        if not folder.exists():
            return folder
        found = {path.relative_to(folder).as_posix() for path in _entries(folder)}
    strange = sorted(found - _written(folder))
    if strange:
        raise RequestError(
            f"{folder}: holds '{strange[0]}', which no export wrote, so it is not replaced; "
            "name another folder"
        )
    if not overwrite:
        raise RequestError(f"{folder}: exists already; name another folder, or replace it with --overwrite")
    return folder


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder; in place of its folder of memories, the entries of that."""
    for path in folder.iterdir():
        if path.name == _MEMORY and path.is_dir():
            yield from path.iterdir()
        else:
            yield path


def _written(folder: Path) -> set[str]:
    """List what an earlier export wrote there."""
    try:
        about = json.loads((folder / README).read_text())
        return {README, *about["files"]} if "export_format" in about else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def _check_vectors(recommender: Recommender, model: SequentialModel) -> None:
    """Raise RequestError if items have other vectors for other histories (RecBole's models may)."""
    base = model.base if isinstance(model, RetrievalRecommender) else model
    if isinstance(base, BackboneRecommender):
        return
    before = base.item_table.clone()
    with torch.no_grad():
        base.represent(recommender.scorer.interaction(Requests.now(real_histories(recommender))))
    # Products of a model's own that are computed anew may differ in their last bits.
    if not torch.allclose(before, base.item_table, rtol=1e-5, atol=1e-6):
        raise RequestError(
            f"export: {recommender.about.model} gives items other vectors for other histories, so there are "
            "none to write; use another model"
        )


def _contents(
    recommender: Recommender, model: SequentialModel
) -> tuple[dict[str, tuple[NDArray[Any], str]], dict[str, Any]]:
    """Return the arrays by file name, each with what it is, and what the README says beside them."""
    arrays = {_ITEMS: (_plain(model.item_table), "vector of each item; row 0 is padding, not an item")}
    score = f"score of item i = dot(state, {_ITEMS}[i])"
    if model.item_bias is not None:
        arrays[_BIAS] = (_plain(model.item_bias), "constant part of each item's score")
        score += f" + {_BIAS}[i]"
    memory = model if isinstance(model, RetrievalRecommender) else None
    base = model if memory is None else memory.base
    about: dict[str, Any] = {
        "model": recommender.about.model,
        "dataset": recommender.about.dataset,
        "versions": {"trained": dict(recommender.about.versions), "exported": _versions()},
        "history": {
            "max_length": recommender.scorer.max_length,
            "what": "ids of items, oldest first; of a longer history the latest max_length count",
        },
    }
    bias = base.backbone.history_bias if isinstance(base, BackboneRecommender) else None
    if bias is not None:
        constant, added = _constant(base), "history_bias.constant"
        if bias.slope is not None:
            arrays[_SLOPE] = (_plain(bias.slope), "what the state adds to the history bias: dot(state, this)")
            added = f"({added} + dot(state, {_SLOPE}))"
        about["history_bias"] = {"kind": "scalar" if bias.slope is None else "state", "constant": constant}
        score += f" + {added} if i is in the history"
    if memory is not None:
        for name, what in _COLUMNS.items():
            arrays[f"{_MEMORY}/{name}.npy"] = (getattr(memory.bank, name), what)
        if isinstance(memory.mixture, TransitionMixture) and memory.mixture.transitions is not None:
            for name, what in _VOTES.items():
                arrays[f"{_MEMORY}/votes_{name}.npy"] = (
                    getattr(memory.mixture.transitions.votes, name),
                    what,
                )
        about["memory"] = _about_memory(recommender, memory)
    about["score"] = score + ("" if memory is None else "; what memories do to it: memory.effect")
    return arrays, about


def _about_memory(recommender: Recommender, memory: RetrievalRecommender) -> dict[str, Any]:
    return {
        "memories": len(memory.bank),
        "similarity": "cosine of a query's state and a memory's key",
        "fusion": recommender.about.settings.get("fusion"),
        **memory.weights,
        **({} if memory.mixture is None else {memory.mixture.parameter: float(memory.mixture.sharpness)}),
        "effect": _effect(memory),
        "n_neighbors": memory.n_neighbors,
        "scope": memory.scope,
        "index": {"searched": memory.bank.index.kind, "exported": _faiss_kind(memory)},
        "may_be_seen": "memories of others; of the query's own user those with lengths below the query's"
        + ("; and of these only those with times before the query's" if memory.scope == "past" else ""),
    }


def _effect(memory: RetrievalRecommender) -> str:
    """How memories change the scores."""
    if memory.keeps_backbone:
        return "none: their weights leave the backbone as it is"
    said = []
    if memory.fusion is not None and float(memory.fusion.alpha) < 1:
        chosen = "n_neighbors memories taken at random" if memory.at_random else "the n_neighbors nearest"
        said.append(
            f"the state is first fused with {chosen} by a network that is not exported: without it these "
            "files give the scores of the backbone"
        )
    if memory.mixture is not None and not memory.mixture.is_off:
        said.append(
            "+ log1p((1 - w) / w * share[i] / p[i]), with w = mixture_weight, p = softmax of the scores so "
            f"far over all rows, padding too, and share[i] = {_SHARES[type(memory.mixture)]}"
        )
    return "; then ".join(said)


_SHARES = {
    NeighbourMixture: "sum of softmax(cosine / temperature) of the n_neighbors nearest memories over those "
    "whose value is i",
    TransitionMixture: "(q @ votes)[i] / sum(q @ votes), with q[j] = sum of decay ** (items after it in the "
    "history) over the places of j, and 0 without any vote",
}


def _constant(base: SequentialModel) -> float:
    """Return the part of the history bias that is the same for every state, as the model computes it."""
    table = base.item_table
    one = torch.ones(1, 1, dtype=torch.int64, device=table.device)
    with torch.no_grad():
        offsets = base.history_offsets(table.new_zeros(1, table.shape[1]), one)
    return 0.0 if offsets is None else float(offsets.values[0, 0])


def _plain(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _versions() -> dict[str, str]:
    return {"recbole_ra": __version__, **{name: version(name) for name in ("torch", "numpy", "faiss-cpu")}}


def _faiss_kind(memory: RetrievalRecommender) -> str:
    kind = memory.bank.index.kind
    return "Flat" if kind == "Torch" else kind  # the same exact search


def _faiss_index(memory: RetrievalRecommender) -> Index:
    """Return the bank's own index, or one of FAISS that finds the same."""
    bank = memory.bank
    if bank.index.kind == _faiss_kind(memory):
        return bank.index
    index = Index(_faiss_kind(memory), bank.keys.shape[1])
    index.add(bank.keys)
    return index


def _write_names(path: Path, recommender: Recommender) -> None:
    items = recommender.items
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "token", "title"])
        for number in range(1, len(items)):
            writer.writerow([number, items.names[number], items.title(number) or ""])
