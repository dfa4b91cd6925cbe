"""Item ids that depend on the training part alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_ra.core.files import digest
from recbole_ra.sequences.table import IntArray, SequenceTable


@dataclass(frozen=True, eq=False)
class TrainingItems:
    """The items of the training part, numbered in the order of their tokens.

    A data set numbers items as they first appear in its file, held-out rows included. What is mined,
    drawn, trained and decoded with those numbers would change with validation and test items.

    Attributes
    ----------
    ids : int64 array, shape [training items + 1]
        Id in the data set of each training item; position 0 is padding.
    tokens : list of str
        Their tokens, ascending, without padding.
    """

    ids: IntArray
    tokens: list[str]

    @classmethod
    def of(cls, sequences: SequenceTable, vocabulary: Sequence[str]) -> TrainingItems:
        """Number the items that occur in training sequences."""
        tokens = np.array(vocabulary)
        present = np.unique(sequences.items)
        ordered = present[np.argsort(tokens[present], kind="stable")].astype(np.int64)
        return cls(np.concatenate([[0], ordered]), tokens[ordered].tolist())

    def __len__(self) -> int:
        return len(self.ids)

    def number(self, table: SequenceTable) -> SequenceTable:
        """The table with the numbers of here instead of the ids of the data set."""
        place = np.zeros(table.n_items, dtype=np.int32)
        place[self.ids] = np.arange(len(self.ids))
        return SequenceTable(
            place[table.items], table.offsets, table.users, len(self.ids), table.origin, table.times
        )

    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return digest(self.tokens)
