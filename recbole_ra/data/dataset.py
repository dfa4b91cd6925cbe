"""RecBole's data set and its splits, filtered and split by RecBole, without padded histories."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_ra.core.errors import DataError, nearest
from recbole_ra.core.files import digest, digest_bytes
from recbole_ra.data.atomic import check_atomic_file, is_there
from recbole_ra.data.table import Prefixes, SequenceTable, gather_windows

FLAT_FIELD = "flat_position"
PREFIX_FIELD = "prefix_length"
EXACT_TIME_FIELD = "exact_time"
"""When a row's target happens, float64: RecBole's own column is rounded to float32."""
OWNER_FIELD = "owner"
"""Whose a row is, where that is a user that the model was not trained with."""


@dataclass(frozen=True)
class Fields:
    """Names of the columns of a RecBole ``Interaction``."""

    user: str
    item: str
    history: str
    length: str

    @classmethod
    def of(cls, config: Any) -> Fields:
        """Read the names from RecBole's settings."""
        item = config["ITEM_ID_FIELD"]
        return cls(
            config["USER_ID_FIELD"], item, item + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]
        )


class CompactDataset(SequentialDataset):
    """A :class:`SequentialDataset` whose rows are (prefix, target) pairs kept as two integers.

    RecBole writes every prefix out into ``[rows, MAX_ITEM_LIST_LENGTH]`` tensors, one for each
    field. Here a row keeps the target's place in the sorted interactions, and the histories of a
    batch are cut when the batch is asked for; RecBole's loaders and models see no difference.
    """

    table: SequenceTable
    flat_feat: Interaction
    inter_feat: Any

    def _load_data(self, token: str, dataset_path: str) -> None:
        if self.config["benchmark_filename"] is not None:
            raise DataError(
                f"benchmark_filename={self.config['benchmark_filename']}: pre-split files are not read; "
                "give one .inter file and choose the split with eval_args"
            )
        folder = Path(dataset_path)
        if not is_there(folder):
            self._try_download(folder)
        required = {self.uid_field: "token", self.iid_field: "token", self.time_field: "float"}
        file = folder / f"{token}.inter"
        check_atomic_file(file, required=required, separator=self.config["field_separator"])
        for kind in ("user", "item"):
            features = folder / f"{token}.{kind}"
            if kind in (self.config.chosen.get("load_col") or ()) and not is_there(features):
                raise DataError(f"{features}: no such file, but load_col names columns of it; leave it out")
        super()._load_data(token, dataset_path)

    def _load_feat(self, filepath: str, source: Any) -> Any:
        """Read a file; a column that the user names and RecBole would silently miss is an error."""
        ids = {FeatureSource.USER: self.uid_field, FeatureSource.ITEM: self.iid_field}
        columns = self.config["load_col"]
        if source in ids and (columns is None or source.value in columns):
            required = {ids[source]: "token"}
            check_atomic_file(Path(filepath), required=required, separator=self.config["field_separator"])
        feat = super()._load_feat(filepath, source)
        given = self.config.chosen.get("load_col") or {}
        named = given.get(source.value if isinstance(source, FeatureSource) else source)
        there = [] if feat is None else list(feat)
        for column in named if isinstance(named, list) else []:
            if column not in there:
                raise DataError(
                    f"{filepath}: load_col names the column {column!r}, which is not there"
                    f"{nearest(str(column), there)}"
                )
        return feat

    def _try_download(self, folder: Path) -> None:
        try:
            self._download()
        except (OSError, ValueError, RuntimeError) as error:
            # RecBole ends a download of one process with a barrier that needs a process group.
            if (folder / f"{self.dataset_name}.inter").is_file():
                return
            if folder.exists() and not os.listdir(folder):
                folder.rmdir()
            if (folder.parent / f"{self.dataset_name}.inter").is_file():
                raise DataError(
                    f"data set '{self.dataset_name}' is in {folder.parent}; --data_path names the folder "
                    f"above that: --data_path={folder.parent.parent}"
                ) from error
            if Path(self.dataset_name).is_file():
                raise DataError(
                    f"--dataset={self.dataset_name} is a file; make a data set of it first: "
                    f"`recbole-ra prepare {self.dataset_name} --name={Path(self.dataset_name).stem}`"
                ) from error
            raise DataError(
                f"data set '{self.dataset_name}' is not at {folder} ({str(error).splitlines()[0]}); put the "
                f"interactions into {folder}/{self.dataset_name}.inter (`recbole-ra prepare` makes it), or "
                "name the folder that holds the data set's folder with --data_path"
            ) from error

    def _reset_index(self) -> None:
        if not len(self.inter_feat):
            raise DataError(
                f"data set '{self.dataset_name}' is empty after filtering "
                f"(user_inter_num_interval={self.config['user_inter_num_interval']}, "
                f"item_inter_num_interval={self.config['item_inter_num_interval']}); loosen the filters"
            )
        super()._reset_index()

    def _change_feat_format(self) -> None:
        """Sort by user and time while the times are exact; RecBole sorts after it has rounded them.

        As float32, which is what an :class:`Interaction` keeps, Unix times are equal within two minutes.
        """
        feat = self.inter_feat
        order = np.lexsort((feat[self.time_field], feat[self.uid_field]))
        self.inter_feat = feat.iloc[order].reset_index(drop=True)
        self._times = self.inter_feat[self.time_field].to_numpy(dtype=np.float64)
        super()._change_feat_format()

    def data_augmentation(self) -> None:
        """Keep the sorted interactions as a table, and make one row of every target."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        flat = self.inter_feat
        users = flat[self.uid_field].numpy()
        first = np.flatnonzero(np.diff(users, prepend=-1))
        self.flat_feat = flat
        self.table = SequenceTable.from_arrays(
            flat[self.iid_field].numpy(),
            np.append(first, len(users)),
            self.item_num,
            users=users[first],
            times=self._times,
        )
        self._check_lengths()
        for field in (FLAT_FIELD, PREFIX_FIELD):
            self.set_field_property(field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        self.inter_feat = self._every_row()

    def _every_row(self) -> Interaction:
        """Make one row for every (prefix, next item) of the table."""
        prefixes = Prefixes.all_of(self.table, self.max_item_list_len)
        rows = self.flat_feat[prefixes.flat_position]
        rows[self.item_list_length_field] = torch.from_numpy(prefixes.lengths)
        rows[FLAT_FIELD] = torch.from_numpy(prefixes.flat_position)
        rows[PREFIX_FIELD] = torch.from_numpy(prefixes.position)
        return rows

    def _check_lengths(self) -> None:
        split = self.config["eval_args"]["split"]
        short = np.flatnonzero(self.table.lengths < 3)
        if "LS" in split and len(short):
            user = self.field2id_token[self.uid_field][self.table.users[short[0]]]
            raise DataError(
                f"data set '{self.dataset_name}': {len(short)} users have fewer than 3 interactions (first: "
                f"user '{user}'), too few to leave one out for validation and one for the test; "
                'filter them with --user_inter_num_interval="[3,inf)", or "[4,inf)" so that all others are '
                "validated"
            )

    @property
    def prefixes(self) -> Prefixes:
        """The rows of this split."""
        flat = self.inter_feat[FLAT_FIELD].numpy()
        sequence = np.searchsorted(self.table.offsets, flat, side="right") - 1
        return Prefixes(self.table, sequence, flat - self.table.offsets[sequence], self.max_item_list_len)

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        """Rows with their histories, cut now: shapes [rows, MAX_ITEM_LIST_LENGTH]."""
        rows = self.inter_feat[index]
        flat, length = rows[FLAT_FIELD].numpy(), rows[self.item_list_length_field].numpy()
        for field, values in self.flat_feat.interaction.items():
            if field == self.uid_field or values.ndim > 1:
                continue  # a column of sequences has no history here
            cut = gather_windows(values.numpy(), flat - length, length, self.max_item_list_len)
            rows[getattr(self, f"{field}_list_field")] = torch.from_numpy(cut)
        assert self.table.times is not None, "every data set has times"
        rows[EXACT_TIME_FIELD] = torch.from_numpy(self.table.times[flat])
        return self.join(rows) if join else rows

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """User-item matrix of this split's targets and of each first item they follow."""
        flat = self.inter_feat[FLAT_FIELD].numpy()
        first = flat[self.inter_feat[self.item_list_length_field].numpy() == 1] - 1
        interactions = self.flat_feat[np.concatenate([flat, first])]
        return self._create_sparse_matrix(interactions, self.uid_field, self.iid_field, form, value_field)

    def feature_bytes(self) -> Iterator[bytes]:
        """Yield what models may read beside users, items and times: columns, features, loaded weights."""
        known = {self.uid_field, self.iid_field, self.time_field}
        for source, feat in (("inter", self.flat_feat), ("user", self.user_feat), ("item", self.item_feat)):
            columns = {} if feat is None else feat.interaction
            for name in sorted(columns.keys() - known):
                yield f"{source} {name}".encode()
                yield columns[name].numpy().tobytes()
        for name, weights in sorted(self._preloaded_weight.items()):
            yield f"weights {name}".encode()
            yield np.ascontiguousarray(weights).tobytes()

    @property
    def vocabulary(self) -> list[str]:
        """Item tokens by id; position 0 is padding."""
        return [str(token) for token in self.field2id_token[self.iid_field]]


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set; validation or test may be empty."""

    whole: CompactDataset
    train: CompactDataset
    valid: CompactDataset
    test: CompactDataset

    @classmethod
    def load(cls, config: Config) -> Splits:
        """Filter and split by RecBole's rules.

        Raises
        ------
        DataError
            If the data set cannot be used, or not with these settings.
        """
        try:
            dataset = CompactDataset(config)
            train, valid, test = dataset.build()
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            # What RecBole says of settings that only the data can prove wrong.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"data set '{config.dataset}' cannot be loaded with these settings: {reason}; check the "
                "settings of columns, filters and splits"
            ) from error
        return cls(dataset, train, valid, test)

    @functools.cached_property
    def vocabulary_digest(self) -> str:
        """Digest of the item tokens in the order of their ids."""
        return digest(self.whole.vocabulary)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of everything that a run reads of the data set, and of how it is split."""
        return digest_bytes(
            self.whole.table.fingerprint().encode(),
            self.vocabulary_digest.encode(),
            *(split.prefixes.flat_position.tobytes() for split in (self.train, self.valid, self.test)),
            *self.whole.feature_bytes(),
        )
