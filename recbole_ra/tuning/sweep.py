"""A search for settings on Ray Tune: trials side by side, early stopping, resumed after a kill."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ray import tune
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import BasicVariantGenerator

from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.core.files import explain_disk_errors, held, make_folder, write_bytes, write_json
from recbole_ra.pipeline.result import Result
from recbole_ra.pipeline.runner import run
from recbole_ra.report.sweep import Trial, best_trial, value_text, write_trials
from recbole_ra.report.sweep_plots import sweep_plots
from recbole_ra.report.tables import render
from recbole_ra.tuning.cluster import Machine
from recbole_ra.tuning.options import MARK, Sweep
from recbole_ra.tuning.progress import SweepProgress
from recbole_ra.tuning.space import Parameter, default_point
from recbole_ra.tuning.trial import BEST, TrialPlan, short_name, start_of, train_trial

# A trial takes little of a large GPU; more than this many at once wait for each other.
TRIALS_PER_GPU = 4
TABLE_WIDTH = 140


def search(sweep: Sweep, machine: Machine) -> list[Trial]:
    """Run the trials of a sweep.

    Parameters
    ----------
    sweep : Sweep
    machine : Machine
        From :func:`recbole_ra.tuning.cluster.connected`, whose block this must be called in.

    Returns
    -------
    list of Trial
        In the order in which they were made.

    Raises
    ------
    KeyboardInterrupt
        If the user stops it, after what there is has been saved and shown.
    SettingsError
        If more CPUs or GPUs are asked for than there are.
    """
    cpus, gpus, at_once = resources(sweep, machine)
    plan = TrialPlan.of(sweep, uses_gpu=gpus > 0)
    # Beside the folder, not in it: what is held may be deleted to start anew.
    lock = sweep.folder.with_name(f".{sweep.folder.name}.lock")
    with held(lock, lambda: _refuse(sweep.folder)):
        sweep.check_folder()  # once more: it may have been made since the sweep was planned
        with explain_disk_errors(sweep.folder):
            if not sweep.resume and sweep.folder.exists():
                shutil.rmtree(sweep.folder)
        make_folder(sweep.folder)
        write_json(sweep.folder / MARK, {"identity": sweep.identity, "space": str(sweep.space.path)})
        return _search(sweep, plan, cpus, gpus, at_once)


def _refuse(folder: Path) -> None:
    raise RecboleRaError(f"{folder}: another process runs this sweep; wait for it")


def _search(sweep: Sweep, plan: TrialPlan, cpus: int, gpus: float, at_once: int) -> list[Trial]:
    watch = SweepProgress(sweep, plan)
    try:
        watch.trials = tune.run(
            tune.with_parameters(train_trial, plan=plan),
            name="ray",
            storage_path=str(sweep.folder),
            metric=BEST,
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
            resume="AUTO+ERRORED" if sweep.resume else None,
            callbacks=[watch],
            verbose=0,
        ).trials
    finally:
        watch.close()
        records = watch.records()
        if records:
            save(sweep, records)
            print(render(watch.table(records), width=TABLE_WIDTH))
            print(f"trials, pictures, best.yaml: {sweep.folder}", file=sys.stderr)
            print_best(sweep, records)
    return records


def print_best(sweep: Sweep, records: Sequence[Trial]) -> None:
    """One line on the best trial, also where the search was interrupted."""
    best = best_trial(records, bigger=sweep.bigger)
    if best is None:
        return
    chosen = " ".join(f"{name}={value_text(value)}" for name, value in best.parameters.items())
    line = f"best so far: {best.name}, {chosen}, valid {sweep.metric} {best.best:.4f}"
    now = default_point(sweep.space, sweep.config)
    for record in records:
        if record.parameters == now and record.counts:
            line += f" (settings as they stand: {record.best:.4f}, {record.status})"
    print(line, file=sys.stderr, flush=True)


def domain(parameter: Parameter) -> Any:
    """A parameter in Ray's words."""
    if parameter.kind == "choice":
        return tune.choice(list(parameter.values))
    if parameter.kind == "grid":
        return tune.grid_search(list(parameter.values))
    bounds = [parameter.low, parameter.high, *([] if parameter.step is None else [parameter.step])]
    return getattr(tune, parameter.kind)(*bounds)


def searcher(sweep: Sweep) -> Any:
    """How values are chosen. Where it can, the search starts with the settings as they stand."""
    options, seed = sweep.options, sweep.config.seed_value
    has_grid = any(parameter.kind == "grid" for parameter in sweep.space.parameters)
    point = None if has_grid else default_point(sweep.space, sweep.config)
    first = None if point is None else [point]
    if options.search == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return OptunaSearch(points_to_evaluate=first, seed=seed)
    return BasicVariantGenerator(points_to_evaluate=first, random_state=seed)


def scheduler(sweep: Sweep) -> TrialScheduler:
    """Which trials end early; an iteration of Ray's is an evaluated epoch."""
    options, grace = sweep.options, sweep.grace
    if options.scheduler == "asha":
        # One more than there are: a trial that is not ended early comes to its own end.
        most = sweep.longest + 1
        return ASHAScheduler(max_t=most, grace_period=grace, reduction_factor=options.reduction_factor)
    if options.scheduler == "median":
        return MedianStoppingRule(time_attr="training_iteration", grace_period=grace)
    if options.scheduler == "pbt":
        return PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=grace,
            # Of a list Ray takes a neighbour; anything else it multiplies by 1.2 or 0.8.
            hyperparam_mutations={
                parameter.name: list(parameter.values) or domain(parameter)
                for parameter in sweep.space.parameters
            },
            custom_explore_fn=sweep.space.bring_back,
        )
    return FIFOScheduler()


def resources(sweep: Sweep, machine: Machine) -> tuple[int, float, int]:
    """CPUs and GPUs of a trial, and how many trials run at once.

    Raises
    ------
    SettingsError
        If there are not so many.
    """
    options, problems = sweep.options, []
    together = options.max_concurrent or sweep.n_trials
    uses_gpu = sweep.config["use_gpu"] is not False and machine.gpus > 0
    gpus = options.gpus_per_trial
    if gpus < 0:
        gpus = 1 / TRIALS_PER_GPU if uses_gpu else 0.0
    side_by_side = min(together, max(1, int(machine.gpus / gpus)) if gpus else max(1, machine.cpus))
    cpus = options.cpus_per_trial or max(1, machine.cpus // side_by_side)
    at_once = options.max_concurrent or min(side_by_side, max(1, machine.cpus // cpus))
    if cpus > machine.cpus:
        problems.append(f"cpus_per_trial={cpus} but there are {machine.cpus}")
    if gpus > machine.gpus:
        problems.append(
            f"gpus_per_trial={gpus:g} but there are {machine.gpus} (--gpu_id=0,1 names more than one); "
            "0 trains on CPUs"
        )
    if options.max_concurrent * cpus > machine.cpus and not problems:
        problems.append(
            f"max_concurrent={options.max_concurrent} trials of {cpus} CPUs need more than the "
            f"{machine.cpus} that there are"
        )
    if problems:
        raise SettingsError("; ".join(problems))
    return cpus, gpus, min(at_once, sweep.n_trials)


def save(sweep: Sweep, records: Sequence[Trial]) -> None:
    """Write ``trials.csv``, ``best.yaml`` and the pictures."""
    write_trials(records, sweep.folder / "trials.csv", sweep.metric)
    best = best_trial(records, bigger=sweep.bigger)
    if best is not None:
        write_best(sweep, best)
        sweep_plots(records, sweep.folder, sweep.metric, bigger=sweep.bigger)


def write_best(sweep: Sweep, best: Trial) -> None:
    """Write the best trial as a file that ``--config_files`` takes."""
    config = sweep.config
    content = {"model": config.model, "dataset": config.dataset, **sweep.settings, **best.parameters}
    head = f"# Trial {best.name} of {sweep.folder.name}: validation {sweep.metric} {best.best:.4f}\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_bytes(sweep.folder / "best.yaml", (head + text).encode())


def test_best(sweep: Sweep, records: Sequence[Trial]) -> Result:
    """Test the best trial, and it alone.

    Raises
    ------
    RecboleRaError
        If no trial came to a value.
    """
    best = best_trial(records, bigger=sweep.bigger)
    if best is None:
        errors = [record.error for record in records if record.error]
        reason = f"; the first error: {errors[0]}" if errors else ""
        raise RecboleRaError(f"{sweep.folder}: no trial came to a result{reason}")
    return run(
        sweep.config.model,
        sweep.config.dataset,
        start_from=start_of(sweep.trials_folder / best.name),
        **{**sweep.settings, **best.parameters, "resume": True, "output_dir": str(sweep.folder / "best")},
    )
