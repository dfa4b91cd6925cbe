"""SASRec over item vectors that are propagated on the graph of the training sequences (DR4SR's GNN)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbole_ra.core.setting import setting
from recbole_ra.data.batching import TrainBatch
from recbole_ra.data.table import SequenceTable
from recbole_ra.models.buffers import GrowingBuffers
from recbole_ra.models.origins import origins_setting, rows_of
from recbole_ra.models.sasrec import SASRec, SASRecSettings


class _Propagation(torch.autograd.Function):
    """``A x`` of a symmetric ``A``, which is its own transpose in the gradient."""

    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, x: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return adjacency @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, _Propagation.apply(ctx.adjacency, grad)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class GNNSettings(SASRecSettings):
    """SASRec's architecture and the propagation before it."""

    gnn_layers: int = setting(
        3, "propagations over the graph of items", low=1, shapes="backbone", expert=True
    )
    gnn_window: int = setting(
        2, "items apart that are still neighbours in the graph", low=1, shapes="backbone", expert=True
    )
    graph_origins: str = origins_setting("that the graph is made of")


class GNN(GrowingBuffers, SASRec):
    """``E' = mean of E, A E, A² E, …`` (as LightGCN), read and scored by SASRec.

    ``A`` joins items that stand at most ``gnn_window`` apart in a training sequence, each time by one over
    their distance, in both directions, scaled to ``D^-½ A D^-½``. It is part of a checkpoint.
    """

    Settings = GNNSettings
    source = "a backbone of DR4SR (KDD 2024); He et al., SIGIR 2020"
    growing = ("edges", "weights")

    edges: Tensor
    weights: Tensor

    def __init__(self, n_items: int, max_length: int, settings: GNNSettings) -> None:
        super().__init__(n_items, max_length, settings)
        self.layers, self.window = settings.gnn_layers, settings.gnn_window
        self.graph_origins = settings.graph_origins
        self.register_buffer("edges", torch.empty(2, 0, dtype=torch.int64))
        self.register_buffer("weights", torch.empty(0))
        self._known: tuple[tuple[int, int], Tensor] | None = None
        self._in_step: Tensor | None = None

    def see(self, table: SequenceTable) -> None:
        """Make the graph of the sequences that it is trained on, those of ``graph_origins`` among them."""
        counts = sparse.csr_array((self.n_items, self.n_items))
        inside = np.repeat(np.arange(len(table)), table.lengths)
        takes_part = rows_of(table, "graph_origins", self.graph_origins)[inside]
        for distance in range(1, self.window + 1):
            same = (inside[distance:] == inside[:-distance]) & takes_part[distance:]
            pair = table.items[:-distance][same], table.items[distance:][same]
            found = (np.full(len(pair[0]), 1 / distance), pair)
            counts = counts + sparse.coo_array(found, shape=counts.shape).tocsr()
        joined = sparse.csr_array(counts + counts.T)
        joined.sum_duplicates()
        counts = joined.tocoo()
        degree = np.bincount(counts.row, counts.data, minlength=self.n_items)
        scaled = counts.data / np.sqrt(degree[counts.row] * degree[counts.col])
        device = self.edges.device
        self.edges = torch.from_numpy(np.stack([counts.row, counts.col]).astype(np.int64)).to(device)
        self.weights = torch.from_numpy(scaled.astype(np.float32)).to(device)

    @property
    def item_table(self) -> Tensor:
        """The propagated vectors, shape [N, D]; made anew when the weights have changed."""
        if self._in_step is not None:
            return self._in_step
        own = self.item_embedding.weight
        version = (own.data_ptr(), own._version)
        follows = torch.is_grad_enabled() and own.requires_grad
        if not follows and self._known is not None and self._known[0] == version:
            return self._known[1]
        adjacency = self._adjacency()
        table = layer = own
        with torch.autocast(own.device.type, enabled=False):  # sparse products are of single precision
            for _ in range(self.layers):
                layer = _Propagation.apply(adjacency, layer)  # type: ignore[no-untyped-call]
                table = table + layer
            table = table / (self.layers + 1)
        self._known = None if follows else (version, table)
        return table

    def _adjacency(self) -> Tensor:
        """``A`` as compressed sparse rows, whose products take a quarter of the time of coordinates."""
        starts = torch.zeros(self.n_items + 1, dtype=torch.int64, device=self.edges.device)
        starts[1:] = torch.bincount(self.edges[0], minlength=self.n_items).cumsum(0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
            return torch.sparse_csr_tensor(
                starts, self.edges[1], self.weights, (self.n_items, self.n_items), check_invariants=False
            )

    @torch.no_grad()
    def hold_items(self) -> None:
        """Keep the propagated vectors, as ONNX has no sparse products."""
        self._in_step = self.item_table

    def calculate_loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of one optimisation step, shape []; the vectors are propagated once for it."""
        self._in_step = self.item_table
        try:
            return super().calculate_loss(batch)
        finally:
            self._in_step = None
