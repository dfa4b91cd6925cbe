"""Heads, tails and contexts, against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from recbole_ra.data.table import SequenceTable, offsets_of
from recbole_ra.models.long_tail import LongTail

SEQUENCES = [[1, 2, 3, 1], [1, 2], [1], [2, 1, 2, 4, 4, 1, 2], [1, 5]]


def table(sequences: list[list[int]] = SEQUENCES, n_items: int = 7) -> SequenceTable:
    offsets = offsets_of(np.array([len(sequence) for sequence in sequences]))
    return SequenceTable.from_arrays(np.concatenate(sequences), offsets, n_items)


def test_heads_and_tails_are_split_at_the_quantile() -> None:
    tail = LongTail.of(table(), 5, 0.8)
    assert tail.user_limit == 4  # of lengths 1, 2, 2, 4, 7 the quantile is 4.6
    assert tail.head_users.tolist() == [3]
    assert tail.item_limit == 5  # of 7, 5, 1, 2, 1 interactions it is 5.4
    assert tail.head_items.tolist() == [1]
    assert tail.tail_items.tolist() == [2, 3, 4, 5]  # 6 does not occur
    assert tail.n_targets == 3 + 1 + 0 + 6 + 1


def test_the_longest_and_the_most_frequent_are_the_head() -> None:
    tail = LongTail.of(table([[1, 2], [2, 1]], 3), 5, 1.0)
    assert (tail.user_limit, tail.item_limit) == (1, 1)
    assert (tail.head_users.tolist(), tail.head_items.tolist()) == ([0, 1], [1, 2])
    assert len(tail.tail_items) == 0


def test_users_without_training_items_are_not_counted() -> None:
    tail = LongTail.of(table([[], *SEQUENCES, [], []]), 5, 0.8)
    assert tail.user_limit == LongTail.of(table(), 5, 0.8).user_limit
    assert tail.head_users.tolist() == [4]


def test_what_a_model_cannot_tell_apart_is_the_head() -> None:
    assert LongTail.of(table(), 3, 0.8).user_limit == 2
    assert LongTail.of(table(), 3, 0.8).head_users.tolist() == [0, 3]


def test_contexts_are_the_histories_that_end_with_the_item() -> None:
    tail = LongTail.of(table(), 3, 0.8)
    items = np.array([4, 2])
    ends, owner = tail.contexts(items)
    lengths = tail.lengths(ends)
    flat = tail.table.items
    found = sorted(
        (int(items[of]), flat[end + 1 - n : end + 1].tolist())
        for end, of, n in zip(ends, owner, lengths, strict=True)
    )
    expected = sorted(
        (item, sequence[: place + 1][-3:])
        for sequence in SEQUENCES
        for place, item in enumerate(sequence)
        if item in (2, 4)
    )
    assert found == expected


def test_as_many_contexts_are_drawn_as_a_tail_item_may_have() -> None:
    torch.manual_seed(0)
    tail = LongTail.of(table(), 5, 0.8)
    items = np.array([1, 4])
    sizes, seen = Counter(), set()
    for _ in range(300):
        ends, owner = tail.draw_contexts(items)
        assert len(set(ends)) == len(ends)
        assert (tail.table.items[ends] == items[owner]).all()
        sizes.update(("frequent" if of == 0 else "rare", int((owner == of).sum())) for of in (0, 1))
        seen |= set(ends.tolist())
    assert set(sizes) == {*(("frequent", n) for n in range(1, 6)), ("rare", 1), ("rare", 2)}
    assert min(sizes.values()) > 30  # 60 are expected of each size of the frequent one
    assert seen == set(tail.contexts(items)[0].tolist())


def test_histories_are_encoded_in_the_order_that_is_asked() -> None:
    tail = LongTail.of(table(), 5, 0.8)
    ends, _ = tail.contexts(np.array([1, 2, 4]))
    lengths = tail.lengths(ends)

    def encode(items: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """The sum of what stands there, and the last item."""
        return torch.stack([items.sum(1, keepdim=True), items.gather(1, at)], -1)

    found = tail.encode(encode, ends, lengths)
    flat = tail.table.items
    windows = [flat[end + 1 - n : end + 1] for end, n in zip(ends, lengths, strict=True)]
    assert found.tolist() == [[int(window.sum()), int(window[-1])] for window in windows]
