"""How much a regenerated row counts, from how often it was found or written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recbole_ra.data.table import Origin
from recbole_ra.regeneration.merge import RegeneratedData

WEIGHED = {
    "support": (Origin.PATTERN,),
    "multiplicity": (Origin.REGENERATED,),
    "both": (Origin.PATTERN, Origin.REGENERATED),
}
"""Origins whose rows are weighed, by the name of the weight."""


def row_weights(data: RegeneratedData, kind: str) -> NDArray[np.float32] | None:
    """Weigh rows by their count, so that an origin's targets weigh 1 on average.

    A pattern with twice the support counts twice as much; how much patterns count against originals does
    not change with that.

    Parameters
    ----------
    data : RegeneratedData
    kind : {"none", "support", "multiplicity", "both"}

    Returns
    -------
    float32 array, shape [rows]
        Or None, if all count the same.
    """
    if kind == "none":
        return None
    weights = np.ones(len(data), dtype=np.float32)
    targets = data.table.lengths - 1
    for origin in WEIGHED[kind]:
        rows = data.table.origin == origin
        total = (data.count * targets)[rows].sum()
        if total:
            weights[rows] = data.count[rows] * (targets[rows].sum() / total)
    return weights
