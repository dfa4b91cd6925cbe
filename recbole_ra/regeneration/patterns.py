"""The frequent patterns of a run, mined once for whichever stages need them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest
from recbole_ra.data.table import SequenceTable
from recbole_ra.regeneration.mining import Patterns, mine_patterns
from recbole_ra.training.run import Run


class MinedPatterns:
    """Patterns of the training part (METHOD 1.1), mined when first needed.

    Parameters
    ----------
    run : Run
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    @functools.cached_property
    def patterns(self) -> Patterns:
        """The patterns with the numbers of the training items.

        Raises
        ------
        DataError
            If there is none.
        """
        settings = self.run.config.patterns
        mined = mine_patterns(
            self.run.training_part.numbered, window=settings.window, min_support=settings.min_support
        )
        if not len(mined):
            config = self.run.config
            remedy = "lower --min_support, or widen --window"
            if not config.only_regenerates:
                remedy += ", or do without patterns (memory_source=enumerate, regenerate=none)"
            raise DataError(
                f"data set '{config.dataset}': no pattern occurs in {settings.min_support} sequences within "
                f"{settings.window} positions; {remedy}"
            )
        return mined

    @property
    def key(self) -> str:
        """The key of the stage ``patterns``."""
        return digest(self.run.content("patterns"))

    @functools.cached_property
    def table(self) -> SequenceTable:
        """The patterns with the data set's item ids, as unowned sequences."""
        items = self.run.training_part.items
        table = self.patterns.to_table(len(items))
        return dataclasses.replace(
            table, items=items.ids[table.items].astype(np.int32), n_items=self.run.n_items
        )
