"""RecBole's trainer with resumable checkpoints, two ranking protocols and a progress bar.

The loop, early stopping, learners, gradient clipping, AMP, tensorboard and W&B are RecBole's.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.trainer import trainer as recbole_trainer
from recbole.trainer.trainer import Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from recbole_ra.core.errors import CheckpointError, RecboleRaError
from recbole_ra.core.files import write_json
from recbole_ra.models.recommenders import BackboneRecommender, SequentialModel
from recbole_ra.models.softmax import half_in_softmax_alone
from recbole_ra.training.average import WeightAverage
from recbole_ra.training.checkpoint import (
    BEST,
    LAST,
    RESUMED,
    check_entries,
    load_checkpoint,
    load_weights,
    random_state,
    save_checkpoint,
    set_random_state,
)
from recbole_ra.training.evaluation import RankingEvaluator, flat_result
from recbole_ra.training.patience import Patience

EpochCallback = Callable[[Mapping[str, Any]], None]

TENSORBOARD = "tensorboard"  # folder of a stage's events
CHECKPOINT = "checkpoint"  # what a callback is told besides the history's entry: the file after that epoch


@contextmanager
def _nothing_logged_here() -> Iterator[None]:
    """Keep RecBole's trainer from opening a log in the current folder before anything is trained."""
    opens = recbole_trainer.get_tensorboard
    recbole_trainer.get_tensorboard = lambda logger: None
    try:
        yield
    finally:
        recbole_trainer.get_tensorboard = opens


class RaTrainer(Trainer):
    """Trains one stage in one folder: ``best.pt`` is what it selects, ``last.pt`` the latest state.

    Events for TensorBoard lie below it, in ``tensorboard``.

    Parameters
    ----------
    config : RecBole configuration
    model : AbstractRecommender
    folder : Path
    identity : mapping
        ``model``, ``vocabulary``, ``n_items``: stored in every checkpoint and checked on loading.
    stage : str
        Name in progress bars and in the history.
    train_dataset : CompactDataset
        What RecBole's metrics of coverage and popularity look at.
    on_epoch : callable, optional
        Called with the history entry of each evaluated epoch.

    Attributes
    ----------
    first_epochs : int
        Epochs that do not count for early stopping.
    """

    measures: tuple[str, ...] = ()
    """What an epoch's line shows beside the validation metric."""

    def __init__(
        self,
        config: Any,
        model: Any,
        *,
        folder: Path,
        identity: Mapping[str, str],
        stage: str,
        train_dataset: Any,
        on_epoch: EpochCallback | None = None,
    ) -> None:
        with _nothing_logged_here():
            super().__init__(config, model)
        if clip := config["clip_grad_norm"]:
            # RecBole would clip what a loss scaler has multiplied; before a step that is divided again.
            self.clip_grad_norm = None

            def clip_all(*_: Any) -> None:
                clip_grad_norm_(model.parameters(), **clip)

            self.optimizer.register_step_pre_hook(clip_all)
        self.folder = folder
        self.identity = dict(identity)
        self.stage = stage
        self.train_dataset = train_dataset
        self.average = WeightAverage(model, config.optim.ema_decay) if config.optim.ema_decay else None
        if self.average is not None:
            average = self.average
            self.optimizer.register_step_post_hook(lambda *_: average.update())
        self.patience = Patience(config.optim.stopping_margin)
        self.on_epoch = on_epoch
        self.saved_model_file = str(folder / BEST)
        self.history: list[dict[str, float]] = []
        self._last_result: dict[str, float] = {}
        self._epoch_seconds = 0.0
        self._steps = 1
        self.first_epochs = 0
        self._validates = True

    @property
    def last_file(self) -> Path:
        """Where the state after the last evaluated epoch is kept."""
        return self.folder / LAST

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> Any:
        """Train until early stopping; a run that was already finished is left as it is.

        Without validation data every epoch runs and the last is kept.
        """
        if self.history and (self.cur_step > self.stopping_step or self.start_epoch >= self.epochs):
            return self.best_valid_score, self.best_valid_result
        train_data.epoch = self.start_epoch
        self._validates = bool(valid_data) and self.eval_step > 0
        if not isinstance(train_data, AbstractDataLoader):
            train_data.dataset = self.train_dataset

        def after_epoch(epoch: int, score: float) -> None:
            self._after_epoch(epoch)
            if callback_fn is not None:
                callback_fn(epoch, score)

        with self._writer() as self.tensorboard, self.patience.applied():
            return super().fit(train_data, valid_data, verbose, saved, show_progress, after_epoch)

    def _writer(self) -> AbstractContextManager[Any]:
        return closing(SummaryWriter(str(self.folder / TENSORBOARD)))

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> Any:
        loss_func = loss_func or self.model.calculate_loss
        bar = tqdm(
            train_data,
            total=len(train_data),
            desc=f"{self.stage} epoch {epoch_idx}",
            disable=not show_progress or None,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )

        of_ours = isinstance(self.model, SequentialModel)

        def observed(batch: Any) -> Any:
            with half_in_softmax_alone(self.device) if of_ours else nullcontext():
                losses = loss_func(batch)
            if not bar.disable and bar.n % 10 == 0:
                total = sum(part.item() for part in losses) if isinstance(losses, tuple) else losses.item()
                bar.set_postfix(loss=f"{total:.4f}", refresh=False)
            return losses

        self._steps = len(train_data)
        self.patience.held = epoch_idx < self.first_epochs  # what comes then may be better
        started = perf_counter()
        if isinstance(self.model, BackboneRecommender):
            self.model.begin_epoch(epoch_idx)
        with bar:
            total = super()._train_epoch(bar, epoch_idx, observed, show_progress=False)
        self._epoch_seconds = perf_counter() - started
        return total

    def _check_nan(self, loss: Tensor) -> None:
        if torch.isnan(loss):
            raise RecboleRaError(
                f"{self.stage}: the training loss is not a number (NaN); "
                "lower its learning rate or set clip_grad_norm"
            )

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> Any:
        with self._selected_weights():
            score, result = super()._valid_epoch(valid_data, show_progress)
        self._last_result = dict(result)
        return score, result

    def _selected_weights(self) -> AbstractContextManager[None]:
        """Put the weights that are validated and kept into the model: the average, where there is one."""
        return nullcontext() if self.average is None else self.average.applied()

    def _entry(self, epoch: int) -> dict[str, Any]:
        """Return the history's entry of the epoch that has just been trained."""
        return {
            "stage": self.stage,
            "epoch": epoch,
            "loss": self.train_loss_dict[epoch] / self._steps,
            "steps": self._steps,
            "seconds": round(self._epoch_seconds, 3),
            **self._last_result,
        }

    def _after_epoch(self, epoch: int) -> None:
        entry = self._entry(epoch)
        self.history.append(entry)
        average = None if self.average is None else self.average.state_dict()
        state = {**self._state(epoch), "random_states": self._random_states(), "average": average}
        self._keep(self.last_file, state)
        if self.on_epoch is not None:
            self.on_epoch({**entry, CHECKPOINT: str(self.last_file)})

    def _content(self) -> dict[str, Any]:
        """Return what every checkpoint holds."""
        return {
            "identity": self.identity,
            "settings": {key: repr(value) for key, value in sorted(self.config.final_config_dict.items())},
            "history": self.history,
            "state_dict": self.model.state_dict(),
        }

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            **self._content(),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "mark": self.patience.mark,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": None if self.best_valid_result is None else dict(self.best_valid_result),
            "optimizer": self.optimizer.state_dict(),
        }

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = Path(kwargs.pop("saved_model_file", self.saved_model_file))
        if not self._validates:
            self._last_result = {}
        with self._selected_weights():
            self._keep(path, {**self._state(epoch), "history": [*self.history, self._entry(epoch)]})
        if not self._validates:
            self._after_epoch(epoch)

    def _keep(self, path: Path, content: dict[str, Any]) -> None:
        save_checkpoint(path, content)

    def keep_history(self, path: Path) -> None:
        """Write the epochs of the training that has ended."""
        write_json(path, self.history)

    def _random_states(self) -> list[Any]:
        """Return the state of the generators of every process that trains."""
        return [random_state()]

    def _set_random_states(self, states: list[Any]) -> None:
        set_random_state(states[0])

    def resume_checkpoint(self, resume_file: str | Path) -> None:
        """Continue from a checkpoint as if there had been no break, at the learning rate that is set now."""
        content = load_checkpoint(Path(resume_file), self.identity)
        if "random_states" not in content:
            raise CheckpointError(
                f"{resume_file}: no training can go on from it, it is finished or of an earlier version; "
                "delete its folder, or leave --resume out"
            )
        check_entries(Path(resume_file), content, RESUMED)
        load_weights(self.model, content["state_dict"], Path(resume_file))
        try:
            self.optimizer.load_state_dict(content["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(content["average"])
            self._set_random_states(content["random_states"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{resume_file}: its training state is garbled; delete it") from error
        for group in self.optimizer.param_groups:
            group.update(lr=self.learning_rate, weight_decay=self.weight_decay)
        self.start_epoch = content["epoch"] + 1
        self._continue(content, Path(resume_file))
        self.history = content["history"]
        if self._learned_with_others(content["settings"]):
            return  # its best epoch was measured with those; what is kept from now on has the present ones
        self.cur_step, self.patience.mark = content["cur_step"], content["mark"]
        self.best_valid_score = content["best_valid_score"]
        self.best_valid_result = content["best_valid_result"]

    def _learned_with_others(self, settings: Mapping[str, str]) -> bool:
        """Tell whether a setting that may change under way had another value, of all settings as text."""
        about = {name: self.config.about(name) for name in self.config.final_config_dict}
        return any(
            known.while_training and settings.get(name, repr(known.default)) != repr(self.config[name])
            for name, known in about.items()
        )

    def _continue(self, content: dict[str, Any], path: Path) -> None:
        """Take over what a subclass wrote besides."""

    def move(self, folder: Path) -> None:
        """Continue in another folder, to which the files were moved."""
        self.folder, self.saved_model_file = folder, str(folder / Path(self.saved_model_file).name)

    def load_best(self) -> None:
        """Put the selected weights into the model."""
        path = Path(self.saved_model_file)
        load_weights(self.model, load_checkpoint(path, self.identity)["state_dict"], path)

    @torch.no_grad()
    def rank(self, eval_data: Any, show_progress: bool = False) -> RankingEvaluator:
        """Score a split once and rank it under both protocols."""
        self.model.eval()
        self.tot_item_num = eval_data.dataset.item_num
        self.item_tensor = eval_data.dataset.get_item_feature().to(self.device)
        ranking = RankingEvaluator(self.config, self.train_dataset)
        bar = tqdm(
            eval_data,
            desc=f"{self.stage} ranking",
            disable=not show_progress or None,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        for batch in bar:
            interaction, scores, _, _ = self._full_sort_batch_eval((batch.query, None, None, None))
            ranking.add(scores, batch, interaction)
        return ranking

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Measure a split; keys as :func:`flat_result` makes them."""
        if load_best_model:
            if model_file is not None:
                self.saved_model_file = str(model_file)
            self.load_best()
        result = OrderedDict(flat_result(self.rank(eval_data, show_progress).result()))
        self.wandblogger.log_eval_metrics(result, head="eval")
        return result
