"""A search for settings on Ray Tune: trials side by side, early stopping, resumed after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from ray import tune
from ray.tune import schedulers
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from recbole_ra.core.console import say, show
from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.core.files import explain_disk_errors, held, make_folder, write_bytes, write_json
from recbole_ra.pipeline.result import Result
from recbole_ra.pipeline.runner import run
from recbole_ra.report.tables import render
from recbole_ra.tuning.cluster import Machine
from recbole_ra.tuning.options import MARK, Sweep
from recbole_ra.tuning.pictures import draw_sweep
from recbole_ra.tuning.progress import SweepProgress
from recbole_ra.tuning.space import Parameter, default_point
from recbole_ra.tuning.table import Trial, best_trial, write_trials
from recbole_ra.tuning.trial import BEST_VALUE, short_name, start_of, train_trial

# A trial takes little of a large GPU; more than this many at once wait for each other.
TRIALS_PER_GPU = 4
TABLE_WIDTH = 140


def search(sweep: Sweep, machine: Machine) -> list[Trial]:
    """Run the trials of a sweep, and return them in the order in which they were made.

    Must be called inside the block of :func:`recbole_ra.tuning.cluster.connected`.

    Raises
    ------
    KeyboardInterrupt
        If the user stops it, after what there is has been saved and shown.
    SettingsError
        If more CPUs or GPUs are asked for than there are.
    """
    cpus, gpus, at_once = resources(sweep, machine)
    # Beside the folder, not in it: what is held may be deleted to start anew.
    lock = sweep.folder.with_name(f".{sweep.folder.name}.lock")
    with held(lock, lambda: _refuse(sweep.folder)):
        sweep.check_folder()  # once more: it may have been made since the sweep was planned
        with explain_disk_errors(sweep.folder):
            if not sweep.config.run.resume and sweep.folder.exists():
                shutil.rmtree(sweep.folder)
        make_folder(sweep.folder)
        write_json(sweep.folder / MARK, {"identity": sweep.identity, "space": str(sweep.space.path)})
        progress = SweepProgress(sweep)
        try:
            progress.trials = tune.run(
                tune.with_parameters(train_trial, sweep=sweep, uses_gpu=gpus > 0),
                name="ray",
                storage_path=str(sweep.folder),
                metric=BEST_VALUE,
                mode="max" if sweep.bigger else "min",
                config={parameter.name: domain(parameter) for parameter in sweep.space.parameters},
                num_samples=sweep.n_samples,
                search_alg=searcher(sweep),
                scheduler=scheduler(sweep),
                resources_per_trial={"cpu": cpus, "gpu": gpus},
                max_concurrent_trials=at_once,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=4),
                max_failures=sweep.options.max_failures,
                raise_on_failed_trial=False,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: short_name(trial.trial_id),
                resume="AUTO+ERRORED" if sweep.config.run.resume else None,
                callbacks=[progress],
                verbose=0,
            ).trials
        finally:
            progress.close()
            trials = progress.records()
            if trials:
                write_trials(trials, sweep.folder / "trials.csv", sweep.metric)
                save_best(sweep, trials)
                show(render(progress.table(), width=TABLE_WIDTH))
                drawn = draw_sweep(trials, sweep.folder, sweep.metric, bigger=sweep.bigger)
                say(f"{'trials, pictures, best.yaml' if drawn else 'trials'}: {sweep.folder}")
    return trials


def _refuse(folder: Path) -> None:
    raise RecboleRaError(f"{folder}: another process runs this sweep; wait for it")


def save_best(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write the best trial as a file that ``--config_files`` takes, and tell of it in one line."""
    best = best_trial(trials, bigger=sweep.bigger)
    if best is None:
        return
    config = sweep.config
    content = {"model": config.model, "dataset": config.dataset, **sweep.settings, **best.parameters}
    head = f"# Trial {best.name} of {sweep.folder.name}: validation {sweep.metric} {best.best:.4f}\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_bytes(sweep.folder / "best.yaml", (head + text).encode())
    line = f"best so far: {best.name}, {best.chosen}, valid {sweep.metric} {best.best:.4f}"
    now = default_point(sweep.space, config)
    for trial in trials:
        if trial.parameters == now and trial.counts:
            line += f" (settings as they stand: {trial.best:.4f}, {trial.status})"
    say(line)


def domain(parameter: Parameter) -> Any:
    """Translate a parameter for Ray."""
    given = [list(parameter.values)] if parameter.values else [parameter.low, parameter.high, parameter.step]
    kind = {"grid": "grid_search"}.get(parameter.kind, parameter.kind)
    return getattr(tune, kind)(*(value for value in given if value is not None))


def searcher(sweep: Sweep) -> Any:
    """Build what chooses values; where it can, the search starts with the present settings."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed, point = sweep.config.seed_value, default_point(sweep.space, sweep.config)
    has_grid = any(parameter.kind == "grid" for parameter in sweep.space.parameters)
    first = None if has_grid or point is None else [point]
    if sweep.options.search == "optuna":
        return OptunaSearch(points_to_evaluate=first, seed=seed)
    return BasicVariantGenerator(points_to_evaluate=first, random_state=seed)


def scheduler(sweep: Sweep) -> schedulers.TrialScheduler:
    """Build what ends trials early; an iteration of Ray's is an evaluated epoch."""
    kind, grace = sweep.options.scheduler, sweep.grace
    if kind == "asha":
        # Above the epochs and the report of the end: at max_t ASHA ends a trial before its result is saved.
        most, factor = sweep.longest + 2, sweep.options.reduction_factor
        return schedulers.ASHAScheduler(max_t=most, grace_period=grace, reduction_factor=factor)
    if kind == "median":
        return schedulers.MedianStoppingRule(time_attr="training_iteration", grace_period=grace)
    if kind == "pbt":
        return schedulers.PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=grace,
            # Of a list Ray takes a neighbour; anything else it multiplies by 1.2 or 0.8.
            hyperparam_mutations={
                parameter.name: list(parameter.values) or domain(parameter)
                for parameter in sweep.space.parameters
            },
            custom_explore_fn=sweep.space.clip,
        )
    return schedulers.FIFOScheduler()


def resources(sweep: Sweep, machine: Machine) -> tuple[int, float, int]:
    """CPUs and GPUs of a trial, and how many trials run at once; refuses more than there are."""
    options = sweep.options
    gpus = options.gpus_per_trial
    if gpus < 0:
        gpus = 1 / TRIALS_PER_GPU if sweep.config["use_gpu"] is not False and machine.gpus else 0.0
    fit = max(1, int(machine.gpus / gpus) if gpus else machine.cpus)
    side_by_side = min(options.max_concurrent or sweep.n_trials, fit)
    cpus = options.cpus_per_trial or max(1, machine.cpus // side_by_side)
    if cpus > machine.cpus:
        raise SettingsError(f"cpus_per_trial={cpus} but there are {machine.cpus}")
    if gpus > machine.gpus:
        raise SettingsError(
            f"gpus_per_trial={gpus:g} but there are {machine.gpus} (--gpu_id=0,1 names more than one); "
            "0 trains on CPUs"
        )
    if options.max_concurrent * cpus > machine.cpus:
        raise SettingsError(
            f"max_concurrent={options.max_concurrent} trials of {cpus} CPUs need more than the "
            f"{machine.cpus} that there are"
        )
    at_once = options.max_concurrent or min(side_by_side, machine.cpus // cpus)
    return cpus, gpus, min(at_once, sweep.n_trials)


def test_best(sweep: Sweep, trials: Sequence[Trial]) -> Result:
    """Test the best trial, and it alone; raises the first error if no trial came to a value."""
    best = best_trial(trials, bigger=sweep.bigger)
    if best is None:
        errors = [trial.error for trial in trials if trial.error]
        reason = f"; the first error: {errors[0]}" if errors else ""
        raise RecboleRaError(f"{sweep.folder}: no trial came to a result{reason}")
    return run(
        sweep.config.model,
        sweep.config.dataset,
        start_from=start_of(sweep.trials_folder / best.name),
        **{**sweep.settings, **best.parameters, "resume": True, "output_dir": str(sweep.folder / "best")},
    )
