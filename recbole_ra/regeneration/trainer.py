"""The regenerator behind RecBole's interface: model ``DR4SR``, and a trainer for it (METHOD 1.3)."""

from __future__ import annotations

import math
from typing import Any

import torch
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_ra.regeneration.batches import TAU_MIN, PairBatch, PairBatches, annealed
from recbole_ra.regeneration.network import Regenerator
from recbole_ra.settings.declared import RegenerationSettings
from recbole_ra.training.trainer import RaTrainer

DEV_LOSS = "dev_loss"
"""Reconstruction loss per token on held-out pairs: what selects the regenerator's epoch."""

SPACES_IN_USE = "spaces_in_use"
"""How many latent spaces the held-out pairs choose: the perplexity of their mean choice, 1 to P."""


class DR4SR(AbstractRecommender):
    """The regenerator as RecBole's trainer sees a model; it ranks nothing.

    Parameters
    ----------
    network : Regenerator
    settings : RegenerationSettings
    """

    def __init__(self, network: Regenerator, settings: RegenerationSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings

    def calculate_loss(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction per token, entropy per pair and weighted imbalance, each of shape []."""
        loss = self.network.loss(batch.groups, annealed(batch.step))
        return (
            loss.reconstruction / loss.n_tokens,
            loss.entropy / loss.n_rows,
            self.settings.balance_weight * imbalance(loss.usage / loss.n_rows),
        )


def imbalance(usage: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the mean choice of a space, shape [P], from the uniform one; shape [].

    Not in the paper. Its entropy term alone is also satisfied where every pattern chooses the same
    space; the others then are never trained, yet decoded from (docs/results.md).
    """
    # A cold softmax leaves spaces at exactly 0, where the slope of x log x would be 0 times infinity.
    usage = usage.clamp_min(torch.finfo(usage.dtype).tiny)
    return torch.special.xlogy(usage, usage * len(usage)).sum()


class RegeneratorTrainer(RaTrainer):
    """Trains ``DR4SR`` on pairs; keeps the epoch whose loss on held-out pairs is the lowest."""

    measures = (DEV_LOSS, SPACES_IN_USE)

    def __init__(self, config: Any, model: DR4SR, **arguments: Any) -> None:
        super().__init__(config, model, **arguments)
        self.valid_metric_bigger = False
        self.best_valid_score = math.inf
        self.stopping_step = self.epochs  # the schedule runs to its end

    def _build_optimizer(self, **kwargs: Any) -> Any:
        optimizer = super()._build_optimizer(**kwargs)
        if self.learner.lower() in ("adam", "adamw"):
            for group in optimizer.param_groups:
                group["betas"] = (0.9, 0.98)
        return optimizer

    def _train_epoch(
        self, train_data: PairBatches, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        loss_func = loss_func or self.model.calculate_loss
        steps = len(train_data)

        def scheduled(batch: PairBatch) -> Any:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * self._share_of_rate(batch.step, steps)
            return loss_func(batch)

        return super()._train_epoch(train_data, epoch_idx, scheduled, show_progress)

    def _share_of_rate(self, step: int, steps: int) -> float:
        """Return the learning rate at a step as a share of the first (METHOD 7: the released schedule)."""
        period = self.epochs if self.model.settings.variant == "released" else self.epochs * steps
        return (1 + math.cos(math.pi * step / period)) / 2

    @torch.no_grad()
    def _valid_epoch(self, valid_data: PairBatches, show_progress: bool = False) -> Any:
        self.model.eval()
        network, tau = self.model.network, TAU_MIN
        total, tokens, usage = 0.0, 0, torch.zeros(network.n_latents)
        for batch in valid_data:
            loss = network.loss(batch.to(self.device).groups, tau)
            total, tokens = total + float(loss.reconstruction), tokens + loss.n_tokens
            usage += loss.usage.cpu()
        in_use = float(torch.special.entr(usage / usage.sum()).sum().exp())
        self._last_result = {DEV_LOSS: total / tokens, SPACES_IN_USE: in_use}
        return self._last_result[DEV_LOSS], dict(self._last_result)
