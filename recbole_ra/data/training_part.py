"""The rows that models learn from: each user's training part, or what was regenerated from it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest, digest_bytes
from recbole_ra.data.dataset import CompactDataset
from recbole_ra.data.table import IntArray, Origin, SequenceTable, places


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
        """Return the SHA-256 of the tokens."""
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


class RegeneratedDataset(CompactDataset):
    """A training split whose rows are those of a regenerated table (METHOD 1.5); all else is the original's.

    Every recommender trains on it as on any split. An unowned row has RecBole's padding user.
    Outside the original rows, the exact time is unknown (NaN), the time is the position in the row, and
    columns beyond user, item and time are 0.

    Parameters
    ----------
    train : CompactDataset
        The original training split; left as it is.
    table : SequenceTable
        Its original rows are training sequences of ``train``.
    weights : float32 array, shape [sequences], optional
        What the targets of each row count in the loss; by default all count 1.

    Raises
    ------
    DataError
        If an original row is not its owner's training sequence.
    """

    def __init__(
        self, train: CompactDataset, table: SequenceTable, weights: NDArray[np.float32] | None = None
    ) -> None:
        self.__dict__.update(train.__dict__)  # as RecBole's own Dataset.copy does
        source = check_originals(train, table)
        original = np.repeat(table.origin == Origin.ORIGINAL, table.lengths)
        assert train.table.times is not None, "every data set has times"
        times = np.full(len(table.items), np.nan)
        times[original] = train.table.times[source]
        self.table = dataclasses.replace(table, times=times)

        columns = {}
        for field, values in train.flat_feat.interaction.items():
            columns[field] = torch.zeros(len(times), *values.shape[1:], dtype=values.dtype)
            columns[field][original] = values[source]
        columns[train.uid_field] = torch.from_numpy(np.repeat(np.maximum(table.users, 0), table.lengths))
        columns[train.iid_field] = torch.from_numpy(table.items.astype(np.int64))
        time = columns[train.time_field]
        position = places(np.zeros_like(table.lengths), table.lengths)
        time[~original] = torch.from_numpy(position[~original]).to(time.dtype)
        self.flat_feat = Interaction(columns)
        self.inter_feat = self._every_row()
        self.weights = weights

    def fingerprint(self) -> str:
        """Return the digest of the rows, without times, which follow from the original data set."""
        rows = dataclasses.replace(self.table, times=None).fingerprint()
        return rows if self.weights is None else digest_bytes(rows.encode(), self.weights.tobytes())

    @property
    def distinct_rows(self) -> IntArray:
        """Rows, without those of repeated originals, shape [rows]."""
        originals = np.flatnonzero(self.table.origin == Origin.ORIGINAL)
        _, first = np.unique(self.table.users[originals], return_index=True)
        repeated = np.delete(originals, first)
        return np.flatnonzero(~np.isin(self.prefixes.sequence, repeated))


def check_originals(train: CompactDataset, table: SequenceTable) -> IntArray:
    """Check that each original row of a table is its owner's training sequence.

    Returns
    -------
    int64 array, shape [items of the original rows]
        Where each of their items stands among the interactions.

    Raises
    ------
    DataError
        For a row that is not.
    """
    rows = np.flatnonzero(table.origin == Origin.ORIGINAL)
    whole, allowed = train.table, training_sequences(train)
    sequence = np.searchsorted(whole.users, table.users[rows]).clip(0, len(whole) - 1)
    same_user = whole.users[sequence] == table.users[rows]
    known = same_user & (allowed.lengths[sequence] == table.lengths[rows])
    length = np.where(known, table.lengths[rows], 0)
    source = places(whole.offsets[sequence], length)
    same = whole.items[source] == table.items[places(table.offsets[rows], length)]
    known[np.repeat(np.arange(len(rows)), length)[~same]] = False
    if not known.all():
        first = int(table.users[rows[np.argmin(known)]])
        user = f"user '{train.field2id_token[train.uid_field][first]}'" if first > 0 else "one without a user"
        raise DataError(
            f"data set '{train.dataset_name}': {int((~known).sum())} regenerated rows of origin 'original' "
            f"are not their user's training sequence (first: {user}); they were made from another "
            "data set or split, so regenerate with these settings"
        )
    return source
