from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.data.table import SequenceTable
from recbole_ra.data.training_part import TrainingItems

TOKENS = ["[PAD]", "pear", "fig", "apple", "kiwi", "plum"]


def table_of(rows: list[list[int]]) -> SequenceTable:
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return SequenceTable.from_arrays(items, np.cumsum([0, *map(len, rows)]), len(TOKENS))


@given(
    st.lists(st.lists(st.integers(1, 5), max_size=5), max_size=5),
    st.permutations(range(1, 6)),
)
def test_numbers_do_not_depend_on_the_ids(rows: list[list[int]], ids: list[int]) -> None:
    table = table_of(rows)
    items = TrainingItems.of(table, TOKENS)
    numbered = items.number(table)
    assert items.ids[numbered.items].tolist() == table.items.tolist()
    assert items.tokens == sorted({TOKENS[item] for row in rows for item in row})
    assert numbered.n_items == len(items) == len(items.tokens) + 1

    renamed = ["[PAD]", *(TOKENS[ids.index(new) + 1] for new in range(1, 6))]
    moved = table_of([[ids[item - 1] for item in row] for row in rows])
    again = TrainingItems.of(moved, renamed)
    assert again.digest() == items.digest()
    assert again.number(moved).fingerprint() == numbered.fingerprint()
