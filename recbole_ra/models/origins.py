"""Which of the training rows a graph or contrasted views are made of (DR4SR, Figure 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import DataError
from recbole_ra.core.setting import setting
from recbole_ra.data.table import ORIGINS, SequenceTable, split_origins

PARTS = ("graph_origins", "contrast_origins")
"""The settings that say it; of training alone."""


def origins_setting(what: str) -> Any:
    """Declare the setting that says it."""
    return setting(
        "+".join(ORIGINS),
        f"origins of the rows among those that train {what}, joined by +",
        shapes="backbone",
        expert=True,
    )


def rows_of(sequences: SequenceTable, key: str, origins: str) -> NDArray[np.bool_]:
    """Mark the training sequences of the origins that the setting ``key`` names, shape [sequences].

    Raises
    ------
    DataError
        If there is none.
    """
    found = sequences.is_from(split_origins(origins))
    if not found.any():
        raise DataError(f"{key}={origins!r}: no row of that origin trains; name others")
    return found
