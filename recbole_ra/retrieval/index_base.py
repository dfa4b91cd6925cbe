"""What every nearest-neighbour index promises, and the similarity they share.

Every index takes raw vectors and normalises them itself, so scores are cosines (METHOD 4); a zero
vector stays zero and scores 0 with everything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_ra.core.errors import DataError
from recbole_ra.data.table import IntArray

FloatArray = NDArray[np.float32]


def normalise(vectors: NDArray[np.floating[Any]]) -> FloatArray:
    """Scale every row to length 1; rows of zeros stay zero.

    Parameters
    ----------
    vectors : float array, shape [rows, D]

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


class Index(ABC):
    """Finds, for each query, the stored vectors with the largest cosine.

    Attributes
    ----------
    kind : str
        Name in the settings, see :func:`recbole_ra.retrieval.index.make_index`.
    dimension : int
    """

    kind: str
    dimension: int

    @abstractmethod
    def __len__(self) -> int:
        """Vectors stored."""

    @abstractmethod
    def add(self, keys: NDArray[np.floating[Any]]) -> None:
        """Store raw vectors, shape [rows, D]; they get the next ids."""

    @abstractmethod
    def search(self, queries: NDArray[np.floating[Any]], k: int) -> tuple[FloatArray, IntArray]:
        """Return the ``k`` best vectors for each raw query, best first.

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

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the index to one file."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu") -> Index:
        """Read an index; raises CheckpointError, naming the file, if it is damaged."""


def checked(vectors: NDArray[np.floating[Any]], dimension: int) -> NDArray[np.floating[Any]]:
    """Return the vectors; raises ValueError unless their shape is [rows, dimension]."""
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"expected vectors of shape [rows, {dimension}], got {list(vectors.shape)}")
    return vectors


def nothing(rows: int, k: int) -> tuple[FloatArray, IntArray]:
    """Scores and ids of a search that finds no vector, shape [rows, k]."""
    return np.full((rows, k), -np.inf, dtype=np.float32), np.full((rows, k), -1, dtype=np.int64)
