"""Fine-tuning that also trains the backbone: keys go stale, so each epoch encodes them again."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recbole_ra.bridge.augmented import AugmentedRecommender, RaftBatch, Retrieved
from recbole_ra.bridge.loaders import cut_rows
from recbole_ra.core.seeding import stream
from recbole_ra.pipeline.stages import Backbone, Run, build_bank, encode_rows, retrieve_rows, Memory


class RefreshedBatches:
    """Batches of histories with neighbours found at the start of the epoch.

    Parameters
    ----------
    run : Run
    backbone : Backbone
    recommender : AugmentedRecommender
        Gets the bank of each epoch.
    """

    shuffle = True

    def __init__(self, run: Run, backbone: Backbone, recommender: AugmentedRecommender) -> None:
        self.run = run
        self.backbone = backbone
        self.recommender = recommender
        self.batch_size = run.config.raft.raft_batch_size
        self.targets = torch.from_numpy(run.train_rows.targets)
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __iter__(self) -> Iterator[RaftBatch]:
        run, recommender = self.run, self.recommender
        states = encode_rows(run, recommender.base, run.splits.train, self.backbone.trim)
        bank = build_bank(run, self.backbone, states)
        recommender.set_bank(bank)
        found = retrieve_rows(run, Memory(bank, "", states), states, run.train_rows)
        recommender.train()
        rng = stream(run.config.seed_value, "raft", self.epoch)
        self.epoch += 1
        for rows in torch.from_numpy(rng.permutation(len(self.targets))).split(self.batch_size):
            interaction = cut_rows(run.splits.train, rows.numpy(), run.fields, trim=self.backbone.trim)
            query = _Encoded(interaction, found.ids[rows], found.valid[rows], recommender)
            yield RaftBatch(query, self.targets[rows])


class _Encoded(Retrieved):
    """A query whose state is encoded with gradients when it is asked for."""

    def __init__(
        self, interaction: object, ids: torch.Tensor, valid: torch.Tensor, recommender: AugmentedRecommender
    ) -> None:
        self.interaction = interaction
        self.ids = ids
        self.valid = valid
        self.recommender = recommender

    @property
    def states(self) -> torch.Tensor:  # type: ignore[override]
        """The state of each row, shape [B, D]."""
        return self.recommender.base.represent(self.interaction)

    def to(self, device: torch.device | str) -> _Encoded:
        """Move every tensor to a device."""
        return _Encoded(
            self.interaction.to(device), self.ids.to(device), self.valid.to(device), self.recommender  # type: ignore[attr-defined]
        )
