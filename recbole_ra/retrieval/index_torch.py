"""Exact nearest neighbours as matrix products: what a GPU uses instead of faiss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_ra.core.errors import CheckpointError
from recbole_ra.data.table import IntArray
from recbole_ra.retrieval.index_base import FloatArray, Index, checked, normalise, nothing


class TorchIndex(Index):
    """Exact search as blocked matrix products and top-k on any device.

    Parameters
    ----------
    dimension : int
    device : torch.device or str
    query_block, key_block : int
        Rows scored at once: a block of scores takes ``4 * query_block * key_block`` bytes.
    """

    kind = "Torch"

    def __init__(
        self,
        dimension: int,
        *,
        device: torch.device | str = "cpu",
        query_block: int = 2048,
        key_block: int = 16384,
    ) -> None:
        self.dimension = dimension
        self._device = torch.device(device)
        self._query_block, self._key_block = query_block, key_block
        self._keys = torch.empty(0, dimension, device=self._device)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys: NDArray[np.floating[Any]]) -> None:
        """Store raw vectors, shape [rows, D]; they get the next ids."""
        unit = torch.from_numpy(normalise(checked(keys, self.dimension)))
        self._keys = torch.cat([self._keys, unit.to(self._device)])

    @torch.no_grad()
    def search(self, queries: NDArray[np.floating[Any]], k: int) -> tuple[FloatArray, IntArray]:
        """Return scores and ids, see :meth:`Index.search`."""
        unit = torch.from_numpy(normalise(checked(queries, self.dimension)))
        scores, ids = nothing(len(unit), k)
        for start in range(0, len(unit), self._query_block):
            rows = slice(start, start + self._query_block)
            best, place = self._best(unit[rows].to(self._device), k)
            scores[rows, : best.shape[1]] = best.cpu().numpy()
            ids[rows, : best.shape[1]] = place.cpu().numpy()
        return scores, ids

    def _best(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Best ``min(k, M)`` scores and ids of one block of queries, shape [q, min(k, M)]."""
        best = queries.new_empty(len(queries), 0)
        place = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(self._keys), self._key_block):
            block = queries @ self._keys[start : start + self._key_block].T
            score, column = block.topk(min(k, block.shape[1]), dim=1)
            score, column = torch.cat([best, score], 1), torch.cat([place, column + start], 1)
            best, chosen = score.topk(min(k, score.shape[1]), dim=1)
            place = column.gather(1, chosen)
        return best, place

    def save(self, path: Path) -> None:
        """Write the normalised vectors as safetensors."""
        safetensors.torch.save_file({"keys": self._keys.cpu().contiguous()}, path)

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu") -> TorchIndex:
        """Read an index; raises CheckpointError, naming the file, if it is damaged."""
        try:
            keys = safetensors.torch.load_file(path).get("keys", torch.empty(0))
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"{path}: not a readable safetensors file; build the memory bank again"
            ) from error
        if keys.ndim != 2 or keys.dtype != torch.float32:
            raise CheckpointError(f"{path}: holds no float32 matrix 'keys'; build the memory bank again")
        index = cls(keys.shape[1], device=device)
        index._keys = keys.to(index._device)
        return index
