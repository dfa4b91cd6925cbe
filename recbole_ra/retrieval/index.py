"""Makes and reads indices of every kind; the only place that meets faiss (METHOD 4)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from recbole_ra.core.errors import CheckpointError, SettingsError, nearest
from recbole_ra.core.seeding import stream
from recbole_ra.data.table import IntArray
from recbole_ra.retrieval.index_base import FloatArray, Index, checked, normalise, nothing
from recbole_ra.retrieval.index_torch import TorchIndex

KINDS = ("Flat", "IVFFlat", "HNSW", "Torch")

_TRAINING_POINTS_A_LIST = 39
"""Below this faiss warns that k-means has too little to learn from."""


class FaissIndex(Index):
    """A faiss index on the CPU. faiss uses as many threads as the process allows it.

    Parameters
    ----------
    kind : {"Flat", "IVFFlat", "HNSW"}
    dimension : int
    nlist, nprobe : int
        IVFFlat only: lists, and lists visited for each query (all of them if there are fewer).
        0 chooses, when the first vectors arrive: about ``4 * sqrt(M)`` lists for ``M`` vectors.
    seed : int
        Start of IVFFlat's k-means; the same vectors and seed give the same lists. An HNSW graph
        depends on the number of threads that build it.
    """

    def __init__(self, kind: str, dimension: int, *, nlist: int, nprobe: int, seed: int) -> None:
        self.kind, self.dimension = kind, dimension
        self._nlist, self._nprobe, self._seed = nlist, nprobe, seed
        self._faiss: Any = None
        if kind == "Flat":
            self._faiss = faiss.IndexFlatIP(dimension)
        elif kind == "HNSW":
            self._faiss = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
            self._faiss.hnsw.efConstruction = 80
            self._faiss.hnsw.efSearch = 128

    def __len__(self) -> int:
        return 0 if self._faiss is None else int(self._faiss.ntotal)

    def add(self, keys: NDArray[np.floating[Any]]) -> None:
        """Store raw vectors; the first that IVFFlat gets also train its lists."""
        keys = checked(keys, self.dimension)
        if not len(keys):
            return
        unit = normalise(keys)
        if self._faiss is None:
            self._faiss = self._trained(unit)
        self._faiss.add(unit)

    def _trained(self, unit: FloatArray) -> Any:
        rows = len(unit)
        if self._nlist > rows:
            raise SettingsError(
                f"nlist={self._nlist} but the memory bank holds only {rows} memories; "
                "lower nlist or use nlist=0 to choose it"
            )
        automatic = max(1, min(round(4 * math.sqrt(rows)), rows // _TRAINING_POINTS_A_LIST))
        nlist = self._nlist or automatic
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(self.dimension), self.dimension, nlist, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.seed = int(stream(self._seed, "index").integers(2**31))
        # The user's own nlist may leave fewer points a list than faiss likes; that is their choice.
        # 64 training points a list give the recall that 256 give and bound the time of training.
        index.cp.max_points_per_centroid = 64
        index.cp.min_points_per_centroid = 1
        index.nprobe = min(self._nprobe or automatic_nprobe(nlist), nlist)
        index.train(unit)
        return index

    def search(self, queries: NDArray[np.floating[Any]], k: int) -> tuple[FloatArray, IntArray]:
        """Return scores and ids, see :meth:`Index.search`."""
        queries = checked(queries, self.dimension)
        if self._faiss is None or not len(queries):
            return nothing(len(queries), k)
        scores, ids = self._faiss.search(normalise(queries), k)
        return np.where(ids >= 0, scores, np.float32(-np.inf)), ids

    def save(self, path: Path) -> None:
        """Write the index to one file."""
        if self._faiss is None:
            raise ValueError("an index without vectors has nothing to save")
        faiss.write_index(self._faiss, str(path))

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu") -> FaissIndex:
        """Read an index; raises CheckpointError, naming the file, if it is damaged."""
        try:
            found = faiss.read_index(str(path))
        except (RuntimeError, MemoryError) as error:
            raise CheckpointError(
                f"{path}: not a readable faiss index; build the memory bank again"
            ) from error
        types = {faiss.IndexFlatIP: "Flat", faiss.IndexIVFFlat: "IVFFlat", faiss.IndexHNSWFlat: "HNSW"}
        kind = types.get(type(found))
        if kind is None or found.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise CheckpointError(
                f"{path}: holds a {type(found).__name__} that is not one of ours; build the memory bank again"
            )
        index = cls(kind, int(found.d), nlist=0, nprobe=0, seed=0)
        index._faiss = found
        return index


def automatic_nprobe(nlist: int) -> int:
    """Lists to visit for each query when the settings leave it open.

    Notes
    -----
    Measured on one core with 131,413 vectors of width 64 made like the prefix states of
    amazon-beauty (decayed sums of item vectors) in 1450 lists, all of them searched for 21
    neighbours. Recall is of the exact 20 best; the exact index takes 29 s.

    ======  ======  =======
    nprobe  recall  seconds
    ======  ======  =======
    8       .872    3
    16      .917    5
    32      .948    11
    64      .969    23
    90      .975    31
    ======  ======  =======

    Beyond a sixteenth of the lists IVFFlat is no faster than the exact index, so the choice is
    1/64 (22 of 1450).
    """
    return min(nlist, max(8, nlist // 64))


def make_index(
    kind: str,
    dimension: int,
    *,
    nlist: int = 0,
    nprobe: int = 0,
    seed: int,
    device: torch.device | str = "cpu",
) -> Index:
    """Return an empty index.

    Parameters
    ----------
    kind : {"Flat", "IVFFlat", "HNSW", "Torch"}
        "Flat" and "Torch" are exact; "Flat" on another device than the CPU is "Torch".
    dimension : int
        Width of the vectors.
    nlist, nprobe : int
        See :class:`FaissIndex`; 0 is automatic.
    seed : int
    device : torch.device or str
        Where "Torch" keeps its vectors; faiss stays on the CPU.

    Raises
    ------
    SettingsError
        If the kind is unknown or a number is negative.
    """
    if kind not in KINDS:
        raise SettingsError(
            f"index kind '{kind}' is unknown{nearest(kind, KINDS)}; use one of {', '.join(KINDS)}"
        )
    for name, value in {"nlist": nlist, "nprobe": nprobe}.items():
        if value < 0:
            raise SettingsError(f"{name}={value} is negative; use 0 to choose it, or a number of lists")
    if kind == "Torch" or (kind == "Flat" and torch.device(device).type != "cpu"):
        return TorchIndex(dimension, device=device)
    return FaissIndex(kind, dimension, nlist=nlist, nprobe=nprobe, seed=seed)


def load_index(kind: str, path: Path, *, device: torch.device | str = "cpu") -> Index:
    """Read an index of a known kind.

    Raises
    ------
    CheckpointError
        If the file is damaged or holds another kind.
    """
    found = (TorchIndex if kind == "Torch" else FaissIndex).load(path, device=device)
    if found.kind != kind:
        raise CheckpointError(
            f"{path}: holds an index of kind {found.kind}, not {kind}; build the memory bank again"
        )
    return found
