"""Slow, plain implementations that the fast ones are held against."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def mine(sequences: Sequence[Sequence[int]], window: int, min_support: int, max_length: int) -> dict:
    """Support of every frequent pattern, by walking all position sets of all windows."""
    support: Counter[tuple[int, ...]] = Counter()
    for sequence in sequences:
        found = set()
        for length in range(2, max_length + 1):
            for places in itertools.combinations(range(len(sequence)), length):
                if places[-1] - places[0] < window:
                    found.add(tuple(sequence[place] for place in places))
        support.update(found)
    return {pattern: count for pattern, count in support.items() if count >= min_support}


def may_use(query: tuple, memory: tuple, scope: str) -> bool:
    """Whether a query (user, length, time) may see a memory (user, length, time of its target)."""
    query_user, query_length, query_time = query
    user, length, time = memory
    if user != -1 and user == query_user and length >= query_length:
        return False
    if scope == "past":
        if math.isnan(time) or math.isnan(query_time):
            return False
        return time < query_time
    return True


def nearest_memories(
    keys: np.ndarray,
    memories: Sequence[tuple],
    queries: np.ndarray,
    about: Sequence[tuple],
    k: int,
    scope: str,
) -> list[list[tuple[float, int]]]:
    """For each query its best ``k`` eligible memories as (cosine, memory id), best first."""

    def unit(vector: np.ndarray) -> np.ndarray:
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        return vector.astype(np.float64) / norm if norm > 0 else vector.astype(np.float64)

    result = []
    for query, asked in zip(queries, about, strict=True):
        scored = [
            (float(unit(query) @ unit(keys[m])), m)
            for m, memory in enumerate(memories)
            if may_use(asked, memory, scope)
        ]
        result.append(sorted(scored, key=lambda pair: -pair[0])[:k])
    return result


def prefix_rows(sequences: Sequence[Sequence[int]], max_length: int) -> list[tuple]:
    """Every (sequence, position, kept history, target) row, by walking the sequences."""
    return [
        (s, position, list(sequence[max(0, position - max_length) : position]), sequence[position])
        for s, sequence in enumerate(sequences)
        for position in range(1, len(sequence))
    ]
