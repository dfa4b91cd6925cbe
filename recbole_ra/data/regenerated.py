"""The training split made of regenerated sequences (METHOD 1.5)."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from recbole.data.interaction import Interaction

from recbole_ra.core.errors import DataError
from recbole_ra.data.dataset import CompactDataset
from recbole_ra.data.table import IntArray, Origin, SequenceTable, places
from recbole_ra.data.training_part import training_sequences


class RegeneratedDataset(CompactDataset):
    """A training split whose rows are those of a regenerated table; all else is the original's.

    Every recommender trains on it as on any split. A row that nobody owns has RecBole's padding user.
    Columns beyond user, item and time are 0 outside the original rows; the time of a row that is
    not original is the position in it.

    Parameters
    ----------
    train : CompactDataset
        The original training split; left as it is.
    table : SequenceTable
        Its original rows are training sequences of ``train``.

    Raises
    ------
    DataError
        If an original row is not what its owner's training sequence is.
    """

    def __init__(self, train: CompactDataset, table: SequenceTable) -> None:
        self.__dict__.update(train.__dict__)  # as RecBole's own Dataset.copy does
        source = _source_of_originals(train, table)
        self.table = dataclasses.replace(table, times=_times(train, table, source))
        self.flat_feat = _columns(train, table, source)
        self.inter_feat = self._every_row()

    def fingerprint(self) -> str:
        """Digest of the rows; when they happened follows from the original data set."""
        return dataclasses.replace(self.table, times=None).fingerprint()

    @property
    def distinct_rows(self) -> IntArray:
        """Rows, without those of repeated originals, shape [rows]."""
        table = self.table
        originals = np.flatnonzero(table.origin == Origin.ORIGINAL)
        is_again = np.zeros(len(table), dtype=bool)
        is_again[originals] = True
        is_again[originals[np.unique(table.users[originals], return_index=True)[1]]] = False
        return np.flatnonzero(~is_again[self.prefixes.sequence])


def _times(train: CompactDataset, table: SequenceTable, source: IntArray) -> NDArray[np.float64]:
    """When each item of a regenerated table was taken; unknown, NaN, outside the original rows."""
    assert train.table.times is not None, "every data set has times"
    times = np.full(len(table.items), np.nan)
    times[np.repeat(table.origin == Origin.ORIGINAL, table.lengths)] = train.table.times[source]
    return times


def _columns(train: CompactDataset, table: SequenceTable, source: IntArray) -> Interaction:
    """Every column of the interactions, for the items of a regenerated table."""
    length = table.lengths
    position = np.arange(len(table.items)) - np.repeat(table.offsets[:-1], length)
    original = np.repeat(table.origin == Origin.ORIGINAL, length)
    columns = {}
    for field, values in train.flat_feat.interaction.items():
        column = torch.zeros(len(position), *values.shape[1:], dtype=values.dtype)
        column[original] = values[source]
        columns[field] = column
    columns[train.uid_field] = torch.from_numpy(np.repeat(np.maximum(table.users, 0), length))
    columns[train.iid_field] = torch.from_numpy(table.items.astype(np.int64))
    time = columns[train.time_field]
    time[~original] = torch.from_numpy(position[~original]).to(time.dtype)
    return Interaction(columns)


def check_originals(train: CompactDataset, table: SequenceTable) -> None:
    """Refuse a table with an original row that is not its owner's training sequence.

    Raises
    ------
    DataError
    """
    _source_of_originals(train, table)


def _source_of_originals(train: CompactDataset, table: SequenceTable) -> IntArray:
    """Where each item of the original rows stands among the interactions, shape [their items]."""
    rows = np.flatnonzero(table.origin == Origin.ORIGINAL)
    whole, allowed = train.table, training_sequences(train)
    place = np.searchsorted(whole.users, table.users[rows]).clip(0, len(whole) - 1)
    known = (whole.users[place] == table.users[rows]) & (allowed.lengths[place] == table.lengths[rows])
    length = np.where(known, table.lengths[rows], 0)
    source = places(whole.offsets[place], length)
    same = whole.items[source] == table.items[places(table.offsets[rows], length)]
    known[np.repeat(np.arange(len(rows)), length)[~same]] = False
    if not known.all():
        first = int(table.users[rows[np.flatnonzero(~known)[0]]])
        user = train.field2id_token[train.uid_field][first] if first > 0 else "nobody"
        raise DataError(
            f"data set '{train.dataset_name}': {int((~known).sum())} regenerated rows of origin 'original' "
            f"are not their user's training sequence (first: user '{user}'); they were made from another "
            "data set or split, so regenerate with these settings"
        )
    return source
