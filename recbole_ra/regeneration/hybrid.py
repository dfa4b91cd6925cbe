"""One batch of hybrid inference: greedy decoding, each step restrictive or generative (METHOD 1.4).

Shapes: ``B`` sources of ``L`` items, ``P`` latent spaces, ``T`` steps, ``R`` rows (a source in a
space) that are still being decoded, ``D`` width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_ra.models.losses import CPU_CHUNK_ELEMENTS, GPU_CHUNK_ELEMENTS
from recbole_ra.regeneration.network import Regenerator


@torch.no_grad()
def decode(model: Regenerator, sources: Tensor, coins: Tensor) -> Tensor:
    """Decode one batch greedily in all latent spaces at once.

    Parameters
    ----------
    model : Regenerator
        Put into evaluation mode for the call; the promoter has no part in it.
    sources : int64 Tensor, shape [B, L]
        Right-padded with 0, at least one item in each.
    coins : bool Tensor, shape [B, P, T]
        True where a step is generative: any item may follow. Else only items of the source may.
        An item is never produced twice; the end symbol may always follow.

    Returns
    -------
    int64 Tensor, shape [B, P, T]
        Right-padded with 0. Of equal scores the lowest item id wins, the end symbol last.
    """
    training = model.training
    model.eval()
    try:
        return _Decoding(model, sources, coins).run()
    finally:
        model.train(training)


class _Decoding:
    """The rows that are still being decoded, and everything that is known of them."""

    def __init__(self, model: Regenerator, sources: Tensor, coins: Tensor) -> None:
        self.model = model
        b, n_latents, n_steps = coins.shape
        self.coins = coins.flatten(0, 1)  # [B * P, T]
        self.tokens = torch.zeros(b * n_latents, n_steps, dtype=torch.int64, device=sources.device)
        self.shape = coins.shape
        # Ascending, so that the first of equal scores is the lowest id; padding moves to the end.
        last = torch.iinfo(torch.int64).max
        candidates = sources.masked_fill(sources == 0, last).sort(1).values
        again = F.pad(candidates[:, 1:] == candidates[:, :-1], (1, 0)) | (candidates == last)
        candidates = candidates.masked_fill(candidates == last, 0)
        memory = model.memories(sources).flatten(0, 1)  # [B * P, L, D]
        self.cache = model.start(memory, (sources == 0).repeat_interleave(n_latents, 0), n_steps)
        self.row = torch.arange(len(memory), device=sources.device)  # [R], of the result
        self.candidates = candidates.repeat_interleave(n_latents, 0)  # [R, L]
        self.used = again.repeat_interleave(n_latents, 0)  # [R, L]
        self.vectors = F.embedding(self.candidates, model.item_table)  # [R, L, D]
        self.ended = torch.zeros(len(memory), dtype=torch.bool, device=sources.device)

    def run(self) -> Tensor:
        latest = torch.full_like(self.row, self.model.begin)
        for step in range(self.tokens.shape[1]):
            states = self.model.step(latest, self.cache)
            latest = self._choose(states, step)
            self.used |= self.candidates == latest[:, None]
            self.ended |= latest == self.model.end
            self.tokens[self.row, step] = latest.masked_fill(self.ended, 0)
            n_ended = int(self.ended.sum())
            if n_ended == len(self.row):
                break
            if 4 * n_ended >= len(self.row):  # less often, the copying would cost more than it saves
                latest = self._drop(latest)
        return self.tokens.view(self.shape)

    def _choose(self, states: Tensor, step: int) -> Tensor:
        """[R, D] -> the item or end symbol that follows, [R]."""
        scores = torch.bmm(self.vectors, states[:, :, None]).squeeze(2).masked_fill_(self.used, -torch.inf)
        best, place = scores.max(1)
        items = self.candidates.gather(1, place[:, None]).squeeze(1)
        free = (self.coins[self.row, step] & ~self.ended).nonzero().squeeze(1)
        for rows in torch.split(free, self._rows_at_once()):
            best[rows], items[rows] = self._best_of_all(states[rows], self.tokens[self.row[rows], :step])
        return items.masked_fill_(states @ self.model.item_table[self.model.end] > best, self.model.end)

    def _best_of_all(self, states: Tensor, produced: Tensor) -> tuple[Tensor, Tensor]:
        """Best score and item of the whole catalogue but ``produced`` [r, step], for states [r, D]."""
        scores = states @ self.model.item_table[1 : self.model.n_items].T
        scores.scatter_(1, produced - 1, -torch.inf)
        if scores.device.type == "cpu":  # the first maximum too, in a third of torch's time
            items = torch.from_numpy(scores.numpy().argmax(1))
            return scores.gather(1, items[:, None]).squeeze(1), items + 1
        best, place = scores.max(1)
        return best, place + 1

    def _rows_at_once(self) -> int:
        """Rows whose scores of all items stay in the cache until they are read."""
        budget = CPU_CHUNK_ELEMENTS if self.tokens.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        return max(16, budget // self.model.n_items)

    def _drop(self, latest: Tensor) -> Tensor:
        """Forget the rows that have ended."""
        alive = (~self.ended).nonzero().squeeze(1)
        self.cache.keep(alive)
        self.row, self.candidates, self.used = self.row[alive], self.candidates[alive], self.used[alive]
        self.vectors, self.ended = self.vectors[alive], self.ended[alive]
        return latest[alive]
