"""Models that are solved, not trained: one solution for each λ, and the one that validation prefers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.core.machine import available_memory
from recbole_ra.models.infinite_ae import InfiniteAE
from recbole_ra.training.trainer import RaTrainer

RIDGES = (0.0, 1.0, 5.0, 20.0, 50.0, 100.0)
"""The λ that are tried, as published."""


class ClosedFormTrainer(RaTrainer):
    """Solves ∞-AE for each λ; an entry of the history, which others have of an epoch, is of one of them."""

    def __init__(self, config: Any, model: InfiniteAE, **arguments: Any) -> None:
        config.optim = dataclasses.replace(config.optim, ema_decay=0.0)  # there are no steps to average
        super().__init__(config, model, **arguments)

    def _build_optimizer(self, **kwargs: Any) -> Any:
        """Nothing moves by gradients."""
        return None

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> Any:
        """Solve for each λ and keep the best on validation, of equal ones the last, as of epochs.

        Raises
        ------
        SettingsError
            If there is no validation split and no λ is given.
        RecboleRaError
            If the kernel does not fit into memory.
        """
        model, ridge = self.model, self.config.architecture.ridge
        if ridge is None and not valid_data:
            raise SettingsError("ridge: there are no validation rows to choose it on; give it, as --ridge=1")
        check_memory(model, available_memory(self.device))
        started = perf_counter()
        kernel = model.kernel()
        for number, wanted in enumerate(RIDGES if ridge is None else (ridge,)):
            used, loss = model.solve(kernel, wanted)
            entry = {"stage": self.stage, "epoch": number, "ridge": used, "loss": loss}
            entry["seconds"] = round(perf_counter() - started, 3)
            result = self.evaluate(valid_data, load_best_model=False) if valid_data else {}
            self.history.append({**entry, **result})
            score = result.get(self.valid_metric, 0.0)
            best = self.best_valid_score
            if score >= best if self.valid_metric_bigger else score <= best:
                self.best_valid_score, self.best_valid_result = score, result
                self._keep(Path(self.saved_model_file), self._content())
            if self.on_epoch is not None:
                self.on_epoch(self.history[-1])
            started = perf_counter()
        return self.best_valid_score, self.best_valid_result


def check_memory(model: InfiniteAE, available: int) -> None:
    """Refuse rows whose kernel does not fit.

    Raises
    ------
    RecboleRaError
    """
    needed = model.memory_needed
    if needed > available:
        raise RecboleRaError(
            f"InfiniteAE: the kernel of {model.n_rows} training rows, its factor and the solution for "
            f"{model.n_items - 1} items take {needed / 1e9:.3g} GB, but {available / 1e9:.3g} GB are "
            "available; leave rows out with user_inter_num_interval and item_inter_num_interval, or use a "
            "machine with more memory"
        )
