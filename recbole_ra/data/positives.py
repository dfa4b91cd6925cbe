"""Other rows with the same target: what contrastive training takes for the same."""

from __future__ import annotations

import numpy as np

from recbole_ra.data.table import IntArray, offsets_of


class SameTarget:
    """Draws, for a row, another row with the same target.

    Parameters
    ----------
    targets : int64 array, shape [rows]
    """

    def __init__(self, targets: IntArray) -> None:
        self._by_target = np.argsort(targets, kind="stable")
        self._place = np.empty_like(self._by_target)
        self._place[self._by_target] = np.arange(len(targets))
        _, number, count = np.unique(targets, return_inverse=True, return_counts=True)
        self._first, self._count = offsets_of(count)[number], count[number]

    def draw(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """Draw a uniform other row for each row, or the row itself where its target occurs once."""
        first, count = self._first[rows], self._count[rows]
        step = 1 + np.floor(rng.random(len(rows)) * (count - 1)).astype(np.int64)
        return self._by_target[first + (self._place[rows] - first + step) % count]
