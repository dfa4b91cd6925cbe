"""Names of the columns that recommenders read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
