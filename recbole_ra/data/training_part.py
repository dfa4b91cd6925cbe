"""What may be learned from: each user's training part, and nothing after it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_ra.core.files import digest, digest_bytes
from recbole_ra.data.dataset import CompactDataset
from recbole_ra.data.table import IntArray, SequenceTable


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
        """Replace the data set's item ids by the numbers of the training items."""
        number = np.zeros(table.n_items, dtype=np.int32)
        number[self.ids] = np.arange(len(self.ids))
        return dataclasses.replace(table, items=number[table.items], n_items=len(self.ids))

    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return digest(self.tokens)


def training_sequences(train: CompactDataset) -> SequenceTable:
    """Cut each user's sequence before the validation target; one without a training target is empty."""
    whole = train.table
    targets = np.bincount(train.prefixes.sequence, minlength=len(whole))
    return whole.head(np.where(targets > 0, targets + 1, 0))


class TrainingPart:
    """The training sequences of an original training split.

    Attributes
    ----------
    sequences : SequenceTable
        With the data set's item ids.
    items : TrainingItems
    numbered : SequenceTable
        The same sequences with the numbers of ``items``, which do not depend on what is held out.
    """

    def __init__(self, train: CompactDataset) -> None:
        self.sequences = training_sequences(train)
        self.items = TrainingItems.of(self.sequences, train.vocabulary)
        self.numbered = self.items.number(self.sequences)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the sequences and their tokens; the same whatever is held out."""
        return digest_bytes(self.numbered.fingerprint().encode(), self.items.digest().encode())
