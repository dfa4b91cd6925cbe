"""Hybrid inference: one sequence in one latent space at a time against all of them in batches.

    python benchmarks/decoding.py --data_path=dataset --dataset=amazon-beauty --limit=4096
    python benchmarks/decoding.py --data_path=dataset --regenerator=saved/regenerator-…/best.pt

Both decode the training sequences, in windows of 50, with the same weights and coins: those of a
trained regenerator, if one is given, else untrained ones. The plain decoder does as the released code
does: at every step it runs the whole decoder over all tokens so far, without a cache, and scores all
items in either mode. It decodes 40 sequences in every latent space; its time for all sequences is
extrapolated, not measured.

The time hangs on when a row ends: early with trained weights, for patterns have 2 to 5 items, and by
chance with untrained ones. So it is timed twice: as it is, and with the end symbol scored below every
item, which is the worst case: a row then ends only where a restrictive step finds no item left.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from command import start
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.core.store import ArtifactStore
from recbole_ra.data.dataset import Splits
from recbole_ra.data.table import SequenceTable
from recbole_ra.regeneration.decoding import BLOCK, draw_coins, regenerate_sequences
from recbole_ra.regeneration.network import Regenerator
from recbole_ra.regeneration.packed_attention import PackedAttention
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.regeneration.regenerator import RegeneratorStages
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.run import Run

GAMMA, MAX_TOKENS, SEED = 0.5, 25, 2020
PLAIN = 40


def attend(layer: PackedAttention, x: Tensor, memory: Tensor, causal: bool = False) -> Tensor:
    """[T, D], [L, D] -> [T, D] by torch's own attention."""
    q, k, v = (
        part.unflatten(1, (layer.n_heads, -1)).transpose(0, 1)
        for part in (layer.query(x), layer.key(memory), layer.value(memory))
    )
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return layer.norm(x + layer.out(mixed.transpose(0, 1).flatten(1)))


@torch.no_grad()
def plain_decode(model: Regenerator, source: list[int], space: int, coins: list[bool]) -> list[int]:
    """Decode one source in one latent space, everything anew at each step."""
    x = model.source_norm(model.item_table[source] + model.source_positions.weight[: len(source)])
    for attention, feed_forward in zip(model.encoder.attentions, model.encoder.feed_forwards, strict=True):
        x = feed_forward(attend(attention, x, x))
    memory = model.latents(x)[:, space]
    restrictive = torch.full((model.n_items + 2,), -torch.inf)
    restrictive[[*source, model.end]] = 0
    generative = torch.zeros_like(restrictive)
    generative[[0, model.begin]] = -torch.inf
    tokens = [model.begin]
    decoder = model.decoder
    for coin in coins:
        y = model.target_norm(model.item_table[tokens] + model.target_positions.weight[: len(tokens)])
        for attention, memory_attention, feed_forward in zip(
            decoder.attentions, decoder.memory_attentions, decoder.feed_forwards, strict=True
        ):
            y = feed_forward(attend(memory_attention, attend(attention, y, y, causal=True), memory))
        scores = y[-1] @ model.item_table.T + (generative if coin else restrictive)
        scores[tokens] = -torch.inf
        best = int(scores.argmax())
        if best == model.end:
            break
        tokens.append(best)
    return tokens[1:]


@torch.no_grad()
def suppress_end(model: Regenerator) -> None:
    """Score the end symbol below every item, whatever the state: LayerNorm's bias sees to it."""
    model.decoder.feed_forwards[-1].norm.bias.fill_(1)
    model.item_table[model.end] = -100


def first_rows(table: SequenceTable, n: int) -> SequenceTable:
    return SequenceTable.from_arrays(
        table.items[: table.offsets[n]], table.offsets[: n + 1], table.n_items, users=table.users[:n]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--dataset", default="amazon-beauty")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=int, default=None, help="decode only so many sequences ourselves")
    parser.add_argument("--regenerator", default=None, help="best.pt of a trained regenerator")
    given = parser.parse_args()
    settings = {"data_path": given.data_path, "show_progress": False, "state": "ERROR", "seed": SEED}
    settings["use_gpu"] = False  # one sequence at a time is decoded there, and the two are compared
    config = RaConfig(
        "SASRec", given.dataset, overrides={**settings, "regenerator_checkpoint": given.regenerator}
    )
    run = Run(config, Splits.load(config), ArtifactStore(Path("saved")), print)
    stages = RegeneratorStages(run, MinedPatterns(run))
    sources = first_rows(stages.sources, min(given.limit or len(stages.sources), len(stages.sources)))
    torch.manual_seed(SEED)
    model = (stages.regenerator if given.regenerator else stages.build()).network.eval()
    rows = np.linspace(0, len(sources) - 1, min(PLAIN, len(sources))).astype(np.int64)
    coins = {
        int(row): draw_coins(SEED, row // BLOCK, (row % BLOCK + 1, model.n_latents, MAX_TOKENS), GAMMA)[-1]
        for row in rows
    }
    print(
        f"{given.dataset}, {len(sources)} of {len(stages.sources)} training sequences, {model.n_latents} "
        f"latent spaces, at most {MAX_TOKENS} tokens, gamma {GAMMA}, {torch.get_num_threads()} threads"
    )
    for case in ("as it is", "end symbol last"):
        if case == "end symbol last":
            suppress_end(model)
        for number in range(given.rounds):
            started = perf_counter()
            plain = [
                plain_decode(model, sources.items[a:b].tolist(), space, flips.tolist())
                for row in rows
                for a, b in [sources.offsets[row : row + 2]]
                for space, flips in enumerate(coins[int(row)])
            ]
            peer = perf_counter() - started
            started = perf_counter()
            decoded = regenerate_sequences(model, sources, gamma=GAMMA, max_tokens=MAX_TOKENS, seed=SEED)
            ours = perf_counter() - started
            extrapolated = peer / len(rows) * len(sources)
            found = [decoded.items[a:b].tolist() for a, b in pairwise(decoded.offsets)]
            mine = [found[row * model.n_latents + space] for row in rows for space in range(model.n_latents)]
            same = sum(one == other for one, other in zip(plain, mine, strict=True))
            print(
                f"{case}, round {number}\n"
                f"  plain {peer:.1f} s for {len(plain)} rows ({1e3 * peer / len(plain):.1f} ms), "
                f"extrapolated to all {extrapolated:.0f} s\n"
                f"  ours {ours:.1f} s for {len(decoded)} rows, {len(sources) / ours:.0f} sequences a second, "
                f"{len(decoded.items) / len(decoded):.1f} tokens a row\n"
                f"  ratio {extrapolated / ours:.0f}; {same} of {len(plain)} rows equal",
                flush=True,
            )


if __name__ == "__main__":
    start(main)
