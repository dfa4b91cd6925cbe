"""One run from atomic files to a result."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from recbole_ra.core import console
from recbole_ra.core.errors import CheckpointError, DataError, SettingsError, explain_memory_errors
from recbole_ra.core.files import copy_folder, make_folder
from recbole_ra.core.store import ArtifactStore
from recbole_ra.core.workers import Workers
from recbole_ra.data.dataset import CompactDataset, Splits
from recbole_ra.inference.files import MODEL
from recbole_ra.inference.loading import keep
from recbole_ra.pipeline.auto import DataChoice, choose_training_data
from recbole_ra.pipeline.result import Result, link_latest, new_run_folder
from recbole_ra.regeneration.export import check_export, check_exportable, export_data
from recbole_ra.regeneration.patterns import MinedPatterns
from recbole_ra.regeneration.stage import Regenerated, regeneration_stage
from recbole_ra.regeneration.trust import save_trust, trust_facts
from recbole_ra.retrieval.bank import bank_stage, check_bank_size, extend_bank
from recbole_ra.retrieval.comparison import compare, facts_of_rows
from recbole_ra.retrieval.finetuning import cached, raft_stage, retrieve_rows
from recbole_ra.retrieval.retrieved import Retrieved
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.backbone import backbone_stage
from recbole_ra.training.checkpoint import BEST, LAST, random_state, set_random_state
from recbole_ra.training.evaluation import RankingEvaluator
from recbole_ra.training.run import Run
from recbole_ra.training.trainer import TENSORBOARD, RaTrainer

PACKAGES = ("recbole-ra", "recbole", "torch", "numpy", "pandas", "faiss-cpu")


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """Leave random states, cuDNN's flags and the level of logging to whoever called, as they were."""
    state, cudnn, root = random_state(), torch.backends.cudnn, logging.getLogger()
    flags, level = (cudnn.deterministic, cudnn.benchmark), root.level
    try:
        yield
    finally:
        set_random_state(state)
        cudnn.deterministic, cudnn.benchmark = flags
        root.setLevel(level)


@explain_memory_errors()
@_global_state_kept()
def run(
    model: str | None = None,
    dataset: str | None = None,
    config_files: str | Path | Iterable[str | Path] = (),
    *,
    start_workers: Callable[[RaConfig], AbstractContextManager[Workers]] | None = None,
    evaluate_test: bool = True,
    start_from: Path | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> Result:
    """Train, select on validation, and test once.

    Parameters
    ----------
    model : str
        ``SASRec``, ``DuoRec``, a sequential model of RecBole's, ``Ra`` before any of them, or ``DR4SR``.
    dataset : str
        Name of a folder of atomic files below ``data_path``.
    config_files : path or iterable of paths
        YAML files of settings; later ones win.
    start_workers : callable, optional
        Gives the processes that share the work where ``workers`` is above 1; in ``recbole_ra.run`` it is
        :func:`recbole_ra.tuning.workers.ray_workers`.
    evaluate_test : bool
        False while settings are being chosen: the test split is not looked at, and the result has
        validation metrics alone.
    start_from : Path, optional
        ``last.pt`` of the last stage of another run, beside its ``best.pt``: that stage goes on from
        there with the settings of this run, as population based training does.
    on_epoch : callable, optional
        Called after each evaluated epoch with its loss, its validation metrics and the ``checkpoint``
        that holds it, and with each epoch of a stage that is reused or resumed; never sees the test.
    say : callable, optional
        Receives one line at each step; by default standard error.
    **settings
        Any setting of RecBole or of ours; wins over the files.

    Returns
    -------
    Result

    Raises
    ------
    RecboleRaError
        For every mistake that the caller can mend.
    """
    say = say or console.say
    started = perf_counter()
    config = RaConfig(model, dataset, config_files, settings)
    logging.getLogger().setLevel(getattr(logging, str(config["state"]).upper(), logging.INFO))
    idle = config.without_effect(name for name in config.chosen if not config.as_made(name))
    for reason in dict.fromkeys(idle.values()):
        names = ", ".join(name for name in idle if idle[name] == reason)
        say(f"without effect with {reason}: {names}")
    if start_from is not None:
        _check_start(config, start_from)
    if config.run.workers > 1 and start_workers is None:
        raise SettingsError(
            f"workers={config.run.workers}: this call has no start_workers; use recbole_ra.run"
        )
    splits = Splits.load(config)
    if not len(splits.train):
        raise DataError(
            f"data set '{config.dataset}': no training rows are left; loosen the filters or the split"
        )
    state = Run(config, splits, ArtifactStore(Path(config["checkpoint_dir"])), say, on_epoch, start_from)
    state.took("data", started)
    table = splits.whole.table
    say(
        f"data: {config.dataset}, {len(table)} users, {table.n_items - 1} items, "
        f"{len(table.items)} interactions, {len(splits.train)} training targets"
    )
    if not config.only_regenerates:
        _say_what_is_not_validated(state)
    RankingEvaluator(config, splits.train)  # refuses now what could not be measured after training
    if config.only_regenerates or config.run.export_dir is not None:
        check_exportable(state)
    if config.run.export_dir is not None:
        config.run = replace(config.run, export_dir=str(check_export(state, Path(config.run.export_dir))))
    mined = MinedPatterns(state)
    if config.uses_retrieval and config.bank.memory_data == "original":
        check_bank_size(state, mined)
    for folder in (config.run.output_dir, config["checkpoint_dir"]):
        make_folder(Path(folder))
    if config.run.workers == 1 or start_workers is None:
        return _stages(state, mined, evaluate_test)
    with start_workers(config) as state.workers:
        return _stages(state, mined, evaluate_test)


def _check_start(config: RaConfig, start: Path) -> None:
    """Refuse a checkpoint that the last stage could not go on from."""
    if config.regeneration.regenerate == "auto":
        raise SettingsError("regenerate='auto': start_from goes on with one training; name its training data")
    if config.run.workers > 1:
        raise SettingsError(f"workers={config.run.workers}: start_from goes on with one worker only")
    for file in (start, start.with_name(BEST)):
        if not file.is_file():
            raise CheckpointError(
                f"{file}: no such checkpoint; start_from asks for {LAST} and {BEST} of a training"
            )


def _say_what_is_not_validated(state: Run) -> None:
    """Say which users of the test have no say in what is selected."""
    valid, test = state.splits.valid, state.splits.test
    if not len(valid):
        state.say(
            "validation: no rows; every epoch is trained, the last one is kept, and no weight is chosen"
        )
        return
    without = np.setdiff1d(test.prefixes.sequence, valid.prefixes.sequence)
    if len(without) and "LS" in state.config["eval_args"]["split"]:
        state.say(
            f"validation: {len(without)} users of the test have no validation row (RecBole takes none of a "
            "user with three interactions)"
        )


def _stages(state: Run, mined: MinedPatterns, evaluate_test: bool) -> Result:
    """Regenerate, train, remember, fine-tune and measure, as far as the settings ask for it."""
    choice = None
    if state.config.regeneration.regenerate == "auto":
        state, choice = choose_training_data(state, mined)
    config, splits = state.config, state.splits
    regenerated = regeneration_stage(state, mined)
    if config.uses_retrieval and config.bank.memory_data == "regenerated":
        check_bank_size(state, mined)
    if config.only_regenerates:
        return _finish(state, regenerated=regenerated)
    backbone = backbone_stage(state)
    if not config.uses_retrieval:
        valid = _rank(state, backbone.trainer, splits.valid)
        test = _rank(state, backbone.trainer, splits.test) if evaluate_test else None
        trained = backbone.base.trained if evaluate_test else None
        return _finish(state, valid, test, regenerated=regenerated, trained=trained, choice=choice)

    base_valid = base_test = test = None
    if evaluate_test:  # now: finetune=all changes the backbone
        base_valid, base_test = (
            _rank(state, backbone.trainer, split) for split in (splits.valid, splits.test)
        )
    base = backbone.recommender(state)
    memory = bank_stage(state, mined, backbone, base)
    raft = raft_stage(state, mined, backbone, base, memory)
    valid = _rank(state, raft.trainer, splits.valid)
    memories = len(raft.recommender.bank)
    comparison: dict[str, Any] = {}
    if evaluate_test:
        if config.bank.extend_with_validation:
            extend_bank(state, raft.recommender)
        found = retrieve_rows(state, raft.recommender, splits.test)
        test = _rank(state, raft.trainer, splits.test, found)
        if base_test is not None and test is not None and found is not None:
            facts = facts_of_rows(state, raft.recommender, splits.test, found)
            comparison = compare(base_test, test, facts, str(config["valid_metric"]))
    memory_facts = {
        "memories": memories,
        "memories_at_test": len(raft.recommender.bank),
        "source": config.bank.memory_source,
        "index": config.bank.index_type,
        "scope": config.bank.memory_scope,
    }
    if raft.choice is not None:
        memory_facts["choice"] = raft.choice.as_json()
        memory_facts["note"] = raft.choice.summary()
    if comparison:
        memory_facts["comparison"] = comparison
    trained = raft.recommender if evaluate_test else None
    return _finish(
        state,
        valid,
        test,
        base_valid,
        base_test,
        memory_facts,
        regenerated=regenerated,
        trained=trained,
        choice=choice,
    )


def _rank(
    state: Run, trainer: RaTrainer, split: CompactDataset, found: Retrieved | None = None
) -> RankingEvaluator | None:
    """Rank a split, of which it may be known what was retrieved; None if it is empty."""
    clock = perf_counter()
    look_up = None if found is None else cached(trainer.model, split, found)
    batches = state.evaluation(split, trainer.model, look_up)
    ranking = None if batches is None else trainer.rank(batches, bool(state.config["show_progress"]))
    state.took("test", clock)
    return ranking


def _metrics(ranking: RankingEvaluator | None) -> dict[str, dict[str, float]]:
    return {} if ranking is None else ranking.result()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _finish(
    state: Run,
    valid: RankingEvaluator | None = None,
    test: RankingEvaluator | None = None,
    base_valid: RankingEvaluator | None = None,
    base_test: RankingEvaluator | None = None,
    memory: dict[str, Any] | None = None,
    *,
    regenerated: Regenerated | None,
    trained: Any = None,
    choice: DataChoice | None = None,
) -> Result:
    config, table = state.config, state.splits.whole.table
    result = Result(
        model=config.model,
        dataset=config.dataset,
        test=_metrics(test),
        valid=_metrics(valid),
        backbone_test=None if base_test is None else base_test.result(),
        backbone_valid=None if base_valid is None else base_valid.result(),
        history=state.history,
        settings={key: _plain(value) for key, value in sorted(config.everything.items())},
        versions=_versions(),
        data={
            "users": len(table),
            "items": table.n_items - 1,
            "interactions": len(table.items),
            "train": len(state.splits.train),
            "valid": len(state.splits.valid),
            "test": len(state.splits.test),
            "fingerprint": state.fingerprint,
        },
        seconds={name: round(value, 2) for name, value in state.seconds.items()},
        reused=state.reused,
        memory=memory or {},
        regeneration={} if regenerated is None else regenerated.facts(config),
    )
    if choice is not None:
        result.regeneration.update(choice=choice.as_json(), note=choice.summary())
    rows = state.training.prefixes
    if state.trust is not None:
        result.personalisation = trust_facts(rows, state.trust, state.splits.whole.vocabulary)
    folder = new_run_folder(Path(config.run.output_dir), config.model, config.dataset)
    for stage, made in state.folders.items():
        if (made / TENSORBOARD).is_dir():
            copy_folder(made / TENSORBOARD, folder / TENSORBOARD / stage)
    result.save(folder, str(config["valid_metric"]).lower(), bigger=bool(config["valid_metric_bigger"]))
    if state.trust is not None:
        title = f"{config.model} on {config.dataset}: weights of training targets"
        save_trust(rows, state.trust.weights, result.personalisation, folder, title)
    if choice is not None:
        choice.save_picture(folder / "training_data.png", f"{config.model} on {config.dataset}")
    if regenerated is not None:
        regenerated.save_pictures(folder)
        if config.only_regenerates or config.run.export_dir is not None:
            target = Path(
                config.run.export_dir or folder / f"{config.dataset}-{config.regeneration.regenerate}"
            )
            export_data(state, regenerated, target, result.versions)
    keeps = trained is not None and config.run.save_model
    if keeps and keep(state, trained, result.versions, folder / MODEL):
        link_latest(folder, state.say)
    state.say(f"result: {folder}")
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
