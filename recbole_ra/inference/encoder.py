"""Write the encoder of a backbone of ours as ONNX, and compare it with torch in onnxruntime."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_ra.core.errors import RecboleRaError, RequestError
from recbole_ra.data.table import Prefixes, SequenceTable
from recbole_ra.models.backbone import Backbone
from recbole_ra.models.recommenders import BackboneRecommender, SequentialModel
from recbole_ra.retrieval.recommender import RetrievalRecommender

if TYPE_CHECKING:
    from recbole_ra.inference.recommender import Recommender

ENCODER = "encoder.onnx"
TOLERANCE = 1e-5
"""How far states of the ONNX file may be from torch's, as a share of the largest value, or of 1."""

ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_LARGEST = 2**31 - 2**20  # bytes of one protobuf message, less what the graph takes


def require_onnx() -> None:
    """Raise RecboleRaError unless all that ``--onnx`` needs is installed."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise RecboleRaError(
            f"export: --onnx needs {', '.join(missing)}; install the extra onnx (`make setup-onnx`), or "
            "leave --onnx out"
        )


class _Encoder(nn.Module):
    """An encoder of ours as one call, made of a copy of its backbone."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).cpu().eval()
        self.backbone.hold_items()

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        """[B, L], [B] -> [B, D]."""
        return self.backbone.represent(history, length)


def checked_encoder(recommender: Recommender, model: SequentialModel) -> tuple[bytes, dict[str, Any]]:
    """Return the encoder as ONNX and what the README says of it, when onnxruntime gives torch's states.

    Raises
    ------
    RequestError
        If the encoder is not ours, or too large for one file.
    RecboleRaError
        If it cannot be exported or run, or gives other states.
    """
    base = model.base if isinstance(model, RetrievalRecommender) else model
    if not isinstance(base, BackboneRecommender):
        raise RequestError(
            f"export: {recommender.about.model} encodes by a model of RecBole's, and only backbones of ours "
            "are written as ONNX (recbole-ra models lists them); leave --onnx out"
        )
    if sum(4 * weight.numel() for weight in base.backbone.parameters()) > _LARGEST:
        raise RequestError(
            "export: the encoder's weights take more than the 2 GB that an ONNX file holds; leave --onnx out"
        )
    encoder = _Encoder(base.backbone)
    content, opset = _as_onnx(encoder, recommender.scorer.max_length)
    histories = real_histories(recommender)
    difference = _difference(encoder, content, histories)
    if not difference <= TOLERANCE:
        raise RecboleRaError(
            f"export: {ENCODER} gives other states in onnxruntime than torch (by {difference:.1e}, allowed "
            f"is {TOLERANCE:.0e}); nothing is written; `make setup-onnx` installs versions that agree"
        )
    return content, {
        "inputs": {
            "history": "int64 [batch, places]: ids, oldest first, padded with 0 on the right; at most "
            f"{recommender.scorer.max_length} places",
            "length": "int64 [batch]: items of each history, at least 1",
        },
        "outputs": {"state": f"float32 [batch, {base.backbone.width}]"},
        "opset": opset,
        "checked": {
            "histories": len(histories),
            "lengths": [int(histories.lengths.min()), int(histories.lengths.max())],
            "largest_difference": difference,
            "tolerance": TOLERANCE,
        },
        "versions": {name: version(name) for name in ONNX_PACKAGES},
    }


def _as_onnx(encoder: _Encoder, max_length: int) -> tuple[bytes, int]:
    """Return the encoder as an ONNX file, and the version of its operators."""
    # An axis of size 1 would be taken for a constant; with histories of one item it is one.
    length = min(2, max_length)
    sizes: dict[str, Any] = {
        "history": {0: torch.export.Dim("batch")},
        "length": {0: torch.export.Dim("batch")},
    }
    if max_length > 1:
        sizes["history"][1] = torch.export.Dim("places", max=max_length)
    example = (torch.ones(3, length, dtype=torch.int64), torch.full((3,), length))
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                encoder,
                example,
                dynamo=True,
                input_names=["history", "length"],
                output_names=["state"],
                dynamic_shapes=sizes,
                verbose=False,
            )
        proto = program.model_proto
    except torch.onnx.OnnxExporterError as error:
        raise RecboleRaError(
            f"export: torch {version('torch')} with onnxscript {version('onnxscript')} cannot write the "
            "encoder as ONNX; `make setup-onnx` installs versions that can, or leave --onnx out"
        ) from error
    # Notes of the exporter: file names of this machine are among them.
    for message in (proto, proto.graph, *proto.functions):
        del message.metadata_props[:]
    graph = proto.graph
    for message in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del message.metadata_props[:]
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    return proto.SerializeToString(), opset


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch's exporter says of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _difference(encoder: _Encoder, content: bytes, histories: Prefixes) -> float:
    """Run both on the histories, in batches of several sizes and widths; return the largest difference.

    It is a share of the largest value of torch's states, or of 1 if they are smaller; NaN where one is NaN.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    largest = [0.0]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for rows, width in _batches(histories):
            history, length = rows.items(width).astype(np.int64), rows.lengths.astype(np.int64)
            (found,) = session.run(["state"], {"history": history, "length": length})
            with torch.no_grad():
                expected = encoder(torch.from_numpy(history), torch.from_numpy(length)).numpy()
            if found.dtype != np.float32 or found.shape != expected.shape:
                return float("inf")
            scale = max(1.0, float(np.abs(expected).max()))
            largest.append(float(np.abs(found - expected).max()) / scale)
    except Exception as error:  # onnxruntime's errors share no base of their own
        raise RecboleRaError(
            f"export: onnxruntime {version('onnxruntime')} does not run {ENCODER} "
            f"({str(error).strip().splitlines()[0]}); nothing is written"
        ) from error
    return float(np.max(largest))


def _batches(histories: Prefixes) -> Iterator[tuple[Prefixes, int | None]]:
    """Yield rows and the width to pad them to: one, two, seven at once, then all, narrow and wide."""
    first = 0
    for size in (1, 1, 2, 7, len(histories)):
        rows = histories[slice(first, first + size)]
        if len(rows):
            yield rows, None
        first += size
    yield histories, histories.max_length
    yield histories[np.argsort(histories.lengths, kind="stable")[:1]], None


def real_histories(recommender: Recommender, users: int = 128) -> Prefixes:
    """Choose histories of many lengths: of some users whole, and cut after 1, 2, 3 … items."""
    table, longest = recommender.histories, recommender.scorer.max_length
    known = np.flatnonzero(table.lengths > 0)
    if not len(known):  # all were forgotten: a walk through the catalogue
        items = 1 + np.arange(longest) % (len(recommender.items) - 1)
        table = SequenceTable.from_arrays(items, np.array([0, longest]), len(recommender.items))
        known = np.zeros(longest, np.int64)
    chosen = known[np.linspace(0, len(known) - 1, min(users, len(known))).astype(np.int64)]
    whole = np.asarray(table.lengths[chosen], np.int64)
    cut = 1 + np.arange(len(chosen)) % np.minimum(whole, longest)
    return Prefixes(table, np.concatenate([chosen, chosen]), np.concatenate([cut, whole]), longest)
