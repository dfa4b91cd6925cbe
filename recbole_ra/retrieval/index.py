"""Nearest-neighbour indexes; the only place that imports faiss (METHOD 4)."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_ra.core.errors import CheckpointError, DataError, SettingsError
from recbole_ra.core.files import read_arrays, write_arrays
from recbole_ra.core.seeding import stream
from recbole_ra.data.table import IntArray

FloatArray = NDArray[np.float32]

_TRAINING_POINTS_A_LIST = 39
"""Below this faiss warns that k-means has too little to learn from."""


def normalise(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Scale every row to length 1; rows of zeros stay zero.

    Raises
    ------
    DataError
        If a value is not finite: no order of similarity is defined for it.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    # Squares in float64: in float32 they overflow from 1e19 on and vanish below 1e-23.
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    if not np.isfinite(norms).all():
        row = int(np.flatnonzero(~np.isfinite(norms))[0])
        raise DataError(
            f"row {row} of the vectors to index or search is not finite; "
            "the backbone that encoded it has diverged: lower its learning_rate"
        )
    result = np.empty_like(vectors)
    np.divide(vectors, np.where(norms > 0, norms, 1.0)[:, None], out=result, casting="same_kind")
    return result


class Index:
    """Finds, for each query, the stored vectors with the largest cosine.

    It takes raw vectors and normalises them itself; a zero vector scores 0 with everything. faiss uses
    as many threads as the process allows it.

    Parameters
    ----------
    kind : {"Flat", "IVFFlat", "HNSW", "Torch"}
        "Flat" and "Torch" are exact; "Flat" on another device than the CPU becomes "Torch". The graph
        of "HNSW" depends on the number of threads that build it.
    dimension : int
    nlist, nprobe : int
        "IVFFlat" only: lists, and lists visited for each query (all of them if there are fewer).
        0 chooses, when the first vectors arrive: about ``4 * sqrt(M)`` lists for ``M`` vectors.
    seed : int
        Start of the k-means of "IVFFlat"; the same vectors and seed give the same lists.
    device : torch.device or str
        Where "Torch" keeps its vectors; faiss stays on the CPU.
    """

    def __init__(
        self,
        kind: str,
        dimension: int,
        *,
        nlist: int = 0,
        nprobe: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if kind not in KINDS:
            raise SettingsError(f"index_type={kind!r} must be one of {', '.join(KINDS)}")
        if kind == "Flat" and torch.device(device).type != "cpu":
            kind = "Torch"
        self.kind, self.dimension = kind, dimension
        self._nlist, self._nprobe, self._seed = nlist, nprobe, seed
        self._searcher: Any = None
        if kind == "Flat":
            self._searcher = faiss.IndexFlatIP(dimension)
        elif kind == "HNSW":
            self._searcher = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
            self._searcher.hnsw.efConstruction = 80
            self._searcher.hnsw.efSearch = 128
        elif kind == "Torch":
            self._searcher = TorchFlatIP(dimension, device)

    def __len__(self) -> int:
        return 0 if self._searcher is None else int(self._searcher.ntotal)

    def _unit(self, vectors: NDArray[np.floating[Any]]) -> FloatArray:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise ValueError(f"expected vectors of shape [rows, {self.dimension}], got {list(vectors.shape)}")
        return normalise(vectors)

    def add(self, keys: NDArray[np.floating[Any]]) -> None:
        """Store raw vectors, shape [rows, D]; they get the next ids."""
        unit = self._unit(keys)
        if len(unit):
            if self._searcher is None:
                self._searcher = self._trained_ivf(unit)
            self._searcher.add(unit)

    def copy(self) -> Index:
        """Return an index of its own with the same vectors."""
        made = copy.copy(self)
        if isinstance(self._searcher, TorchFlatIP):
            made._searcher = copy.copy(self._searcher)  # adding makes its tensor anew
        elif self._searcher is not None:
            made._searcher = faiss.clone_index(self._searcher)
        return made

    def replace(self, keys: NDArray[np.floating[Any]]) -> None:
        """Store other raw vectors in place of all, with ids from 0; trained lists stay as they are."""
        unit = self._unit(keys)
        if self._searcher is not None:
            self._searcher.reset()
        if len(unit):
            self.add(keys)

    def _trained_ivf(self, unit: FloatArray) -> Any:
        rows = len(unit)
        check_lists(self._nlist, rows)
        automatic = max(1, min(round(4 * math.sqrt(rows)), rows // _TRAINING_POINTS_A_LIST))
        nlist = self._nlist or automatic
        quantizer = faiss.IndexFlatIP(self.dimension)
        index = faiss.IndexIVFFlat(quantizer, self.dimension, nlist, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = int(stream(self._seed, "index").integers(2**31))
        # The user's own nlist may leave fewer points a list than faiss likes; that is their choice.
        # 64 training points a list give the recall that 256 give and bound the time of training.
        index.cp.max_points_per_centroid = 64
        index.cp.min_points_per_centroid = 1
        index.nprobe = min(self._nprobe or automatic_nprobe(nlist), nlist)
        index.train(unit)
        return index

    def search(self, queries: NDArray[np.floating[Any]], k: int) -> tuple[FloatArray, IntArray]:
        """Find the ``k`` best vectors for each raw query, best first.

        Parameters
        ----------
        queries : float array, shape [Q, D]
        k : int

        Returns
        -------
        scores : float32 array, shape [Q, k]
            Cosines; -inf where there is no further vector.
        ids : int64 array, shape [Q, k]
            -1 where there is no further vector.
        """
        unit = self._unit(queries)
        if not len(self) or not len(unit):
            return _no_hits(len(unit), k)
        scores, ids = self._searcher.search(unit, k)
        return np.where(ids >= 0, scores, np.float32(-np.inf)), ids

    def save(self, path: Path) -> None:
        """Write the index to one file."""
        if self.kind == "Torch":
            write_arrays(path, keys=self._searcher.keys.cpu().numpy())
        else:
            _write(self._searcher, path)

    @classmethod
    def load(cls, kind: str, dimension: int, path: Path, *, device: torch.device | str = "cpu") -> Index:
        """Read a saved index; raises CheckpointError unless the file holds one of that kind and width."""
        damaged = CheckpointError(
            f"{path}: is missing, damaged or no {kind} index of width {dimension}; "
            "delete the artifact that holds it and run again"
        )
        try:
            searcher = TorchFlatIP.read(path, device) if kind == "Torch" else _read(path)
        except (RuntimeError, MemoryError, OSError) as error:
            raise damaged from error
        expected = (_TYPES.get(kind), faiss.METRIC_INNER_PRODUCT, dimension)
        if (type(searcher), searcher.metric_type, searcher.d) != expected:
            raise damaged
        index = cls(kind, dimension, device=device if kind == "Torch" else "cpu")
        index._searcher = searcher
        return index


def _write(searcher: Any, path: Path) -> None:
    """Write an index of faiss through Python, which says why a disk refuses and knows every file name."""
    refused: list[OSError] = []

    def write(content: bytes) -> int:
        try:
            return file.write(content)
        except OSError as error:
            refused.append(error)
            raise

    with open(path, "wb") as file:
        try:
            faiss.write_index(searcher, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]  # no stub
        except RuntimeError:
            if refused:
                raise refused[0] from None
            raise


def _read(path: Path) -> Any:
    """Read an index of faiss; raises RuntimeError or OSError if the file holds none."""
    with open(path, "rb") as file:
        return faiss.read_index(faiss.PyCallbackIOReader(file.read))  # type: ignore[attr-defined]  # no stub


def check_lists(nlist: int, n_memories: int) -> None:
    """Raise SettingsError if an index is to have more lists than there are memories."""
    if nlist > n_memories:
        raise SettingsError(
            f"nlist={nlist} but the memory bank holds only {n_memories} memories; "
            "lower nlist or use nlist=0 to choose it"
        )


def automatic_nprobe(nlist: int) -> int:
    """Choose how many lists to visit for each query.

    Notes
    -----
    Measured on one core with 131,413 vectors of width 64 made like the prefix states of
    amazon-beauty (decayed sums of item vectors) in 1450 lists, all of them searched for 21
    neighbours. Recall of the exact 20 best, and seconds, for an nprobe of 8: .872, 3 s; 16: .917,
    5 s; 32: .948, 11 s; 64: .969, 23 s; 90: .975, 31 s. The exact index takes 29 s.

    Beyond a sixteenth of the lists IVFFlat is no faster than the exact index, so the choice is
    1/64 (22 of 1450).
    """
    return min(nlist, max(8, nlist // 64))


def _no_hits(rows: int, k: int) -> tuple[FloatArray, IntArray]:
    return np.full((rows, k), -np.inf, dtype=np.float32), np.full((rows, k), -1, dtype=np.int64)


class TorchFlatIP:
    """Exact search on any device, as blocked matrix products and top-k, behind the interface of faiss.

    Parameters
    ----------
    d : int
        Width of the vectors.
    device : torch.device or str
    query_block, key_block : int
        Rows scored at once: a block of scores takes ``4 * query_block * key_block`` bytes.
    """

    metric_type = faiss.METRIC_INNER_PRODUCT

    def __init__(
        self, d: int, device: torch.device | str, *, query_block: int = 2048, key_block: int = 16384
    ) -> None:
        self.d = d
        self.keys = torch.empty(0, d, device=device)
        self._query_block, self._key_block = query_block, key_block

    @classmethod
    def read(cls, path: Path, device: torch.device | str) -> TorchFlatIP:
        """Read stored vectors; raises RuntimeError, as faiss does, if the file holds none."""
        arrays = read_arrays(path, ["keys"])
        if arrays is None or arrays[0].ndim != 2 or arrays[0].dtype != np.float32:
            raise RuntimeError(f"{path}: holds no float32 matrix 'keys'")
        found = cls(arrays[0].shape[1], device)
        found.keys = torch.from_numpy(arrays[0]).to(device)
        return found

    @property
    def ntotal(self) -> int:
        """Vectors stored."""
        return len(self.keys)

    def add(self, unit: FloatArray) -> None:
        """Store vectors, shape [rows, D]; they get the next ids."""
        self.keys = torch.cat([self.keys, torch.from_numpy(unit).to(self.keys.device)])

    def reset(self) -> None:
        """Drop all vectors."""
        self.keys = self.keys[:0]

    @torch.no_grad()
    def search(self, unit: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
        """Return scores and ids, shape [Q, k]; the id is -1 where there is no further vector."""
        scores, ids = _no_hits(len(unit), k)
        for start in range(0, len(unit), self._query_block):
            rows = slice(start, start + self._query_block)
            best, place = self._best(torch.from_numpy(unit[rows]).to(self.keys.device), k)
            scores[rows, : best.shape[1]] = best.cpu().numpy()
            ids[rows, : best.shape[1]] = place.cpu().numpy()
        return scores, ids

    def _best(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Best ``min(k, M)`` scores and ids of one block of queries, shape [q, min(k, M)]."""
        best = queries.new_empty(len(queries), 0)
        place = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(self.keys), self._key_block):
            block = queries @ self.keys[start : start + self._key_block].T
            score, column = block.topk(min(k, block.shape[1]), dim=1)
            score, column = torch.cat([best, score], 1), torch.cat([place, column + start], 1)
            best, chosen = score.topk(min(k, score.shape[1]), dim=1)
            place = column.gather(1, chosen)
        return best, place


_TYPES = {
    "Flat": faiss.IndexFlatIP,
    "IVFFlat": faiss.IndexIVFFlat,
    "HNSW": faiss.IndexHNSWFlat,
    "Torch": TorchFlatIP,
}
KINDS = tuple(_TYPES)
