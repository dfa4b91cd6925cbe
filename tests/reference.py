"""Slow, plain implementations that the fast ones are held against."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


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


def infinite_ae_scores(rows: Sequence[set], queries: Sequence[set], n_items: int, ridge: float) -> np.ndarray:
    """Scores of ∞-AE, one pair of sets after another, shape [queries, n_items]; item 0 is padding."""

    def kernel(one: set, two: set) -> float:
        a, b, c = (2 * len(part) / (n_items - 1) + 0.01 for part in (one, two, one & two))
        angle = math.acos(min(1.0, c / math.sqrt(a * b)))
        both_active = (math.pi - angle) / (2 * math.pi)
        relu = math.sqrt(a * b) * (math.sin(angle) / (2 * math.pi) + math.cos(angle) * both_active)
        return 2 * relu + 0.01 + 2 * c * both_active

    marks = np.array([[item in row for item in range(n_items)] for row in rows], float)
    own = np.array([[kernel(one, two) for two in rows] for one in rows])
    dual = np.linalg.solve(own + ridge * np.trace(own) / len(own) * np.eye(len(own)), marks)
    return np.array([[kernel(one, two) for two in rows] for one in queries]) @ dual


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


def contained(sequences: Sequence[Sequence[int]], patterns: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Every (sequence, pattern) where the pattern's items occur in the sequence in order, any gaps."""
    found = []
    for s, sequence in enumerate(sequences):
        for p, pattern in enumerate(patterns):
            rest = iter(sequence)
            if all(item in rest for item in pattern):
                found.append((s, p))
    return found


def unite(rows: Sequence[tuple], copies: int) -> list[tuple]:
    """Regenerated data of (origin, user, latent, items) rows, originals first: equal later ones dropped."""
    kept: list[tuple] = []
    for row in rows:
        origin, _, _, items = row
        if len(items) >= 2 and (origin == 0 or all(items != earlier[3] for earlier in kept)):
            kept.append(row)
    originals = [row for row in kept if row[0] == 0]
    return originals * (copies - 1) + kept


def attend(layer: Any, x: Tensor, memory: Tensor, *, causal: bool = False) -> Tensor:
    """One sequence [T, D] attends another [L, D] by the weights of a ``PackedAttention``, head by head."""
    q, k, v = layer.query(x), layer.key(memory), layer.value(memory)
    width = x.shape[1] // layer.n_heads
    heads = []
    for h in range(layer.n_heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(1) @ v[:, part])
    return layer.norm(x + layer.out(torch.cat(heads, 1)))


def encode(encoder: Any, x: Tensor, *, causal: bool = False) -> Tensor:
    """One sequence [L, D] through an ``Encoder``."""
    for attention, feed_forward in zip(encoder.attentions, encoder.feed_forwards, strict=True):
        x = feed_forward(attend(attention, x, x, causal=causal))
    return x


def latent_memories(model: Any, source: Sequence[int], *, causal: bool = False) -> list[Tensor]:
    """The memory of one source in each latent space of a regenerator, [L, D] each."""
    vectors = model.items.weight[list(source)] + model.source_positions.weight[: len(source)]
    memory = encode(model.encoder, model.source_norm(vectors), causal=causal)
    if model.latents is None:
        return [memory]
    inner = torch.relu(model.latents.inner(memory)).chunk(model.n_latents, 1)
    outer = model.latents.outer.weight.chunk(model.n_latents, 1)
    return [inner[p] @ outer[p].T + model.latents.bias[p] for p in range(model.n_latents)]


def decoder_states(model: Any, memory: Tensor, tokens: Sequence[int]) -> Tensor:
    """States after each token of one sequence, all layers made anew, [tokens, D]."""
    x = model.target_norm(model.items.weight[list(tokens)] + model.target_positions.weight[: len(tokens)])
    decoder = model.decoder
    layers = zip(decoder.attentions, decoder.memory_attentions, decoder.feed_forwards, strict=True)
    for attention, memory_attention, feed_forward in layers:
        x = feed_forward(attend(memory_attention, attend(attention, x, x, causal=True), memory))
    return x


def pair_loss(model: Any, source: Sequence[int], pattern: Sequence[int], tau: float) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of one pair, entropy of its choice; all logits, -inf where no candidate is."""
    memories = latent_memories(model, source, causal=model.causal_encoder)
    choice = torch.ones(1, dtype=memories[0].dtype)
    if model.promoter is not None:
        places = model.target_positions.weight[1 : len(pattern) + 1]
        read = model.target_norm(model.items.weight[list(pattern)] + places)
        choice = (model.promoter.head(encode(model.promoter.encoder, read).mean(0)) / tau).softmax(0)
    memory = sum(weight * part for weight, part in zip(choice, memories, strict=True))
    begin, end = model.n_items, model.n_items + 1
    logits = decoder_states(model, memory, [begin, *pattern]) @ model.items.weight.T
    allowed = torch.full_like(logits, -torch.inf)
    allowed[:, [*(source if model.candidates == "source" else range(1, model.n_items)), end]] = 0
    wanted = torch.tensor([*pattern, end])
    loss = torch.nn.functional.cross_entropy(logits + allowed, wanted, reduction="sum")
    return loss, -(choice * choice.log()).sum()


def decode_one(model: Any, source: Sequence[int], space: int, coins: Sequence[bool]) -> list[int]:
    """Decode one source in one latent space, step by step, scoring every item at every step."""
    memory, produced = latent_memories(model, source)[space], []
    begin, end = model.n_items, model.n_items + 1
    for generative in coins:
        scores = decoder_states(model, memory, [begin, *produced])[-1] @ model.items.weight.T
        allowed = set(range(1, model.n_items)) if generative else set(source)
        best = max([*sorted(allowed - set(produced)), end], key=scores.tolist().__getitem__)
        if best == end:
            break
        produced.append(best)
    return produced
