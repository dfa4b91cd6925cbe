"""The training split made of regenerated sequences (METHOD 1.5)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_ra.core.errors import DataError
from recbole_ra.data.dataset import CompactDataset
from recbole_ra.data.table import IntArray, Origin, SequenceTable, places
from recbole_ra.data.training_part import training_sequences


class RegeneratedDataset(CompactDataset):
    """A training split whose rows are those of a regenerated table; all else is the original's.

    Every recommender trains on it as on any split. A row that nobody owns has RecBole's padding user.
    Outside the original rows, the exact time is unknown (NaN), the time is the position in the row, and
    columns beyond user, item and time are 0.

    Parameters
    ----------
    train : CompactDataset
        The original training split; left as it is.
    table : SequenceTable
        Its original rows are training sequences of ``train``.

    Raises
    ------
    DataError
        If an original row is not its owner's training sequence.
    """

    def __init__(self, train: CompactDataset, table: SequenceTable) -> None:
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

    def fingerprint(self) -> str:
        """Digest of the rows; when they happened follows from the original data set."""
        return dataclasses.replace(self.table, times=None).fingerprint()

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
        user = train.field2id_token[train.uid_field][first] if first > 0 else "nobody"
        raise DataError(
            f"data set '{train.dataset_name}': {int((~known).sum())} regenerated rows of origin 'original' "
            f"are not their user's training sequence (first: user '{user}'); they were made from another "
            "data set or split, so regenerate with these settings"
        )
    return source
