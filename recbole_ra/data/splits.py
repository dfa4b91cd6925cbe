"""The three splits of a data set."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from recbole.config import Config

from recbole_ra.core.errors import DataError
from recbole_ra.core.files import digest, digest_bytes
from recbole_ra.data.dataset import CompactDataset


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
