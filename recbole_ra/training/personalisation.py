"""Training on personalised data, DR4SR+: weights of targets are learned with the backbone (METHOD 2)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_ra.core.errors import CheckpointError
from recbole_ra.data.batching import SequenceBatches, TrainBatch
from recbole_ra.data.table import Prefixes
from recbole_ra.models.backbone import Backbone, EncoderBackbone
from recbole_ra.models.personalizer import Personalizer
from recbole_ra.settings.declared import PersonalisationSettings
from recbole_ra.training.hypergradient import hypergradient
from recbole_ra.training.run import Run, Trust
from recbole_ra.training.trainer import RaTrainer

TERMS, STEP = 3, 1e-3
"""Of the Neumann series: further terms, and the step of the lower level that it stands for."""

MOMENTUM, DECAY, LARGEST_NORM = 0.9, 1e-3, 10.0
"""Of the upper level's SGD."""


class PersonalizedTrainer(RaTrainer):
    """Trains a backbone whose personalizer weighs the targets of some origins.

    ``bilevel``: after the warm-up, each ``personalize_interval`` steps the personalizer moves against the
    slope of the loss on rows that judge it, at the backbone's optimum. ``end-to-end`` (ablation C): both
    move together against the weighted training loss.

    Call :meth:`personalise` before it trains.
    """

    settings: PersonalisationSettings
    weighed: Tensor
    judges: SequenceBatches

    def personalise(self, settings: PersonalisationSettings, rows: Prefixes, judges: SequenceBatches) -> None:
        """Say which rows are weighed, and on what the weights are judged.

        Parameters
        ----------
        settings : PersonalisationSettings
        rows : Prefixes
            The training rows.
        judges : SequenceBatches
            Batches of the rows whose loss says how good the weights are.
        """
        self.settings = settings
        self.weighed = torch.from_numpy(is_weighed(settings, rows)).to(self.device)
        self.judges = judges
        self._lower_steps = 0
        self._judging: Iterator[TrainBatch] | None = None
        layers = [*self.personalizer.inner.parameters(), *self.personalizer.outer.parameters()]
        # τ has a least value, so nothing pulls it to 0.
        groups: list[dict[str, Any]] = [{"params": layers, "weight_decay": DECAY}]
        if self.personalizer.tau.requires_grad:
            groups.append({"params": [self.personalizer.tau]})
        self._learned = [parameter for group in groups for parameter in group["params"]]
        self.upper = torch.optim.SGD(groups, lr=settings.personalize_learning_rate, momentum=MOMENTUM)
        theirs = {id(parameter) for parameter in self.personalizer.parameters()}
        self.lower = [
            parameter
            for parameter in self.model.parameters()
            if id(parameter) not in theirs and parameter.requires_grad
        ]

    @property
    def backbone(self) -> EncoderBackbone:
        """The backbone that is trained."""
        return self.model.backbone

    @property
    def personalizer(self) -> Personalizer:
        """What weighs the targets."""
        assert self.backbone.personalizer is not None, "built with it"
        return self.backbone.personalizer

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        loss_func = loss_func or self.model.calculate_loss
        bilevel = self.settings.personalize == "bilevel"
        judged = epoch_idx >= self.settings.personalize_warmup

        def weighted(batch: TrainBatch) -> Any:
            self._lower_steps += 1
            self.personalizer.clip()
            if bilevel and judged and self._lower_steps % self.settings.personalize_interval == 0:
                self.move_upper(batch)
            plain = self.settings.as_released and not judged
            batch.weigh = None if plain else self._weights(batch, learned=not bilevel)
            return loss_func(batch)

        return super()._train_epoch(train_data, epoch_idx, weighted, show_progress)

    def _weights(self, batch: TrainBatch, *, learned: bool) -> Any:
        weighed = self.weighed[batch.rows]

        def weigh(states: Tensor) -> Tensor:
            for parameter in self._learned:  # in a lower step the slope reaches at most the states
                parameter.requires_grad_(learned)
            weights = self.personalizer(states if self.settings.as_released else states.detach())
            return torch.where(weighed, weights, 1.0)

        return weigh

    def move_upper(self, batch: TrainBatch) -> None:
        """Move the personalizer one step, judged by the next-item loss on the next batch of its judges."""
        dev = self._next_judges().to(self.device)
        batch.weigh = self._weights(batch, learned=True)
        # cuDNN's recurrent networks cannot be differentiated twice.
        with torch.backends.cudnn.flags(enabled=False):
            slopes = hypergradient(
                self.backbone.recommendation_loss(self.backbone.trained_states(dev), dev),
                self.backbone.calculate_loss(batch),
                self.lower,
                self._learned,
                terms=TERMS,
                step=STEP,
            )
        for parameter, slope in zip(self._learned, slopes, strict=True):
            parameter.grad = slope / STEP if self.settings.as_released else slope
        torch.nn.utils.clip_grad_norm_(self._learned, LARGEST_NORM)
        self.upper.step()
        self.upper.zero_grad(set_to_none=True)
        self.personalizer.moves += 1

    def _next_judges(self) -> TrainBatch:
        """Return the next batch of the judges; a training that was resumed sees the same."""
        epoch, place = divmod(self._lower_steps // self.settings.personalize_interval, len(self.judges))
        if self._judging is None or place == 0:
            self.judges.epoch = epoch
            self._judging = itertools.islice(self.judges, place, None)
        return next(self._judging)

    def _state(self, epoch: int) -> dict[str, Any]:
        return {**super()._state(epoch), "upper": self.upper.state_dict(), "lower_steps": self._lower_steps}

    def _continue(self, content: dict[str, Any], path: Path) -> None:
        try:
            self.upper.load_state_dict(content["upper"])
            self._lower_steps = int(content["lower_steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: its personalisation is garbled; delete it") from error


def is_weighed(settings: PersonalisationSettings, rows: Prefixes) -> NDArray[np.bool_]:
    """Tell which training targets are weighed, shape [rows]; the others count 1."""
    return rows.table.is_from(settings.weighed_origins)[rows.sequence]


@torch.no_grad()
def trust(run: Run, backbone: Backbone, batches: SequenceBatches) -> Trust:
    """Return the weight of every training target without noise, and say so if none was learned."""
    assert isinstance(backbone, EncoderBackbone), "only backbones of ours are personalised"
    assert backbone.personalizer is not None, "it was trained with one"
    backbone.eval()
    found = np.ones(len(batches.prefixes), dtype=np.float32)
    for batch in batches:
        moved = batch.to(run.config.torch_device)
        found[batch.rows.numpy()] = backbone.personalizer(backbone.trained_states(moved)).cpu().numpy()
    settings = run.config.personalisation
    found[~is_weighed(settings, batches.prefixes)] = 1.0
    origins = tuple(settings.weighed_origins)
    if settings.personalize != "bilevel":
        return Trust(found, origins, None)
    moves = int(backbone.personalizer.moves)
    if not moves:
        run.say(
            "personalisation: up to the selected epoch no weight was learned, they are as they were drawn "
            f"(personalize_warmup={settings.personalize_warmup} epochs, then one step in "
            f"personalize_interval={settings.personalize_interval}); lower these, or train longer"
        )
    return Trust(found, origins, moves)
