"""What ``recbole-ra tune`` takes besides the settings of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_ra.core.errors import DataError, SettingsError
from recbole_ra.core.files import digest, digest_bytes
from recbole_ra.core.setting import declared, raise_problems, read, setting
from recbole_ra.data.dataset import Splits
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.files import read_files, split_plus
from recbole_ra.settings.stages import STAGES, stages_before
from recbole_ra.tuning.space import Space, check_space, read_space

DEFAULT_TRIALS = 20
MARK = "sweep.json"  # tells a folder of a sweep from any other, and which sweep it is


@dataclass(frozen=True)
class TuneSettings:
    """Search for settings, `recbole-ra tune` (docs/tuning.md)."""

    space: str | None = setting(None, "file of the settings to search, or a shipped one (props/tune)")
    trials: int | None = setting(
        None,
        "draws, each with every combination of what is of kind grid; by default 20, of a grid alone 1",
        low=1,
    )
    search: str = setting("random", "how values are chosen", choices=("random", "grid", "optuna"))
    scheduler: str = setting(
        "asha",
        "which trials end early; pbt: bad ones go on from good ones with changed values",
        choices=("asha", "median", "pbt", "none"),
    )
    grace_epochs: int = setting(
        5, "epochs that every trial is given before a scheduler may end it", low=1, expert=True
    )
    reduction_factor: int = setting(3, "asha: one trial in so many goes on at each rung", low=2, expert=True)
    max_concurrent: int = setting(0, "trials at once; 0 = as many as CPUs and GPUs allow", low=0, expert=True)
    cpus_per_trial: int = setting(0, "CPUs of a trial; 0 = automatic", low=0, expert=True)
    gpus_per_trial: float = setting(
        -1.0, "GPUs of a trial, may be a fraction; -1 = automatic", low=-1, expert=True
    )
    max_failures: int = setting(0, "how often a trial is tried again after an error", low=0, expert=True)
    sweep_dir: str | None = setting(
        None, "folder of the sweep; by default below output_dir, named after what is searched"
    )


@dataclass(frozen=True)
class Sweep:
    """A sweep as the user asks for it, checked.

    Attributes
    ----------
    config : RaConfig
        The settings as they stand, without the space.
    settings : mapping
        What the user set for every trial, in files and on the command line; paths are absolute.
    n_trials : int
        Trials in all.
    identity : str
        Digest of what decides its outcome; a sweep is resumed with the same only.
    """

    options: TuneSettings
    space: Space
    config: RaConfig
    settings: Mapping[str, Any]
    n_trials: int
    folder: Path
    identity: str

    def check_folder(self) -> None:
        """Refuse a folder that holds something else than what the command asks for."""
        folder, resume, overwrite = self.folder, self.config.run.resume, self.config.run.overwrite
        if resume and overwrite:
            raise SettingsError("--resume and --overwrite are given; keep one")
        if not folder.exists():
            if resume:
                raise SettingsError(
                    f"--resume: there is no sweep in {folder}; leave --resume out to start it"
                )
            return
        try:
            found = json.loads((folder / MARK).read_text())["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{folder} is no folder of a sweep; choose another --sweep_dir") from error
        if not resume and not overwrite:
            raise SettingsError(
                f"{folder} exists; --resume goes on with that sweep, --overwrite starts it anew"
            )
        if resume and found != self.identity:
            raise SettingsError(
                f"{folder} holds a sweep with other settings, data or another space; choose another "
                "--sweep_dir, or --overwrite it"
            )

    @property
    def metric(self) -> str:
        """The validation metric that trials are compared by."""
        return str(self.config["valid_metric"]).lower()

    @property
    def bigger(self) -> bool:
        """Whether a bigger value is better."""
        return bool(self.config["valid_metric_bigger"])

    @property
    def trials_folder(self) -> Path:
        """Has one folder a trial."""
        return self.folder / "trials"

    @property
    def n_samples(self) -> int:
        """Draws from the space; each is combined with every combination of its grid."""
        return self.n_trials // self.space.n_grid

    @property
    def longest(self) -> int:
        """Most epochs of the stage that trials report."""
        return self.config.raft.raft_epochs if self.config.uses_retrieval else int(self.config["epochs"])

    @property
    def grace(self) -> int:
        """Epochs before a trial may be ended."""
        return min(self.options.grace_epochs, self.longest)


def check_options(options: TuneSettings, space: Space, config: RaConfig) -> tuple[Space, int]:
    """Check that options, space and model go together; give the space to search, and the number of trials."""
    problems = []
    if config.run.workers > 1:
        problems.append(f"workers={config.run.workers}: trials share the machine already; leave it out")
    if config.run.export_dir is not None:
        problems.append(f"export_dir={config.run.export_dir!r}: trials export nothing; leave it out")
    if options.gpus_per_trial > 0 and config["use_gpu"] is False:
        problems.append(f"gpus_per_trial={options.gpus_per_trial:g} but use_gpu=false; keep one")
    if options.scheduler == "pbt" and config.regeneration.regenerate == "auto":
        problems.append(
            "scheduler=pbt: with regenerate=auto no trial goes on from another one; name the data"
        )
    if options.scheduler == "pbt":
        stuck = [name for name in space.names if not _may_change(name, config)]
        if stuck:
            problems.append(
                f"scheduler=pbt: {', '.join(stuck)} of {space.path} cannot change while a trial goes on; "
                "leave it out or use another scheduler"
            )
    if config["eval_step"] == 0:
        problems.append("eval_step=0: no epoch is validated, so trials cannot be compared; leave it out")
    if config.only_regenerates:
        problems.append(f"--model={config.model} is not ranked, so nothing can be searched; name a model")
    searched = {parameter.name: parameter.values for parameter in space.parameters}
    for fusion in searched.get("fusion", (config.raft.fusion,)):
        if config.uses_retrieval and not dataclasses.replace(config.raft, fusion=fusion).fuses:
            problems.append(
                f"fusion={fusion}: nothing is fine-tuned, so a trial would have no epoch to report; search "
                f"--model={config.backbone}, or a fusion that trains, such as raserec"
            )
    grids = [parameter.name for parameter in space.parameters if parameter.kind == "grid"]
    if options.search == "grid":
        ranges = [parameter.name for parameter in space.parameters if parameter.low is not None]
        if ranges:
            problems.append(f"search=grid: {', '.join(ranges)} of {space.path} must be grid or choice")
        made = tuple(dataclasses.replace(parameter, kind="grid") for parameter in space.parameters)
        space, grids = dataclasses.replace(space, parameters=made), list(space.names)
    elif options.search == "optuna" and grids:
        problems.append(f"search=optuna: {', '.join(grids)} of {space.path} must not be grid; use choice")
    if options.scheduler == "pbt" and grids:
        problems.append(f"scheduler=pbt: {', '.join(grids)} of {space.path} must not be grid; use choice")
    only_grid = len(grids) == len(space.parameters)
    if only_grid and (options.trials or 1) > 1:
        problems.append(
            f"trials={options.trials}: {space.path} is a grid of {space.n_grid} combinations, and each is "
            "tried once; leave --trials out"
        )
    raise_problems(problems)
    samples = options.trials or (1 if only_grid else DEFAULT_TRIALS)
    return space, samples * space.n_grid


def _may_change(name: str, config: RaConfig) -> bool:
    """Tell whether the reported stage can continue with another value: its inputs stay the same."""
    about, reported = config.about(name), config.last_stage
    return (
        about.while_training
        and about.shapes & config.stages - {"test_bank"} >= {reported}
        and not (about.shapes & stages_before(reported))
    )


def plan_sweep(
    model: str | None,
    dataset: str | None,
    files: Sequence[str | Path],
    settings: Mapping[str, Any],
) -> Sweep:
    """Check everything that a sweep needs to know before anything starts.

    Parameters
    ----------
    model, dataset, files, settings
        As for :class:`RaConfig`, with the words of :class:`TuneSettings` among them.

    Raises
    ------
    SettingsError
        For everything that is wrong with them.
    """
    chosen = {**read_files(files), **settings}
    if not chosen.get("space"):
        raise SettingsError("--space is missing; for example --space=raft")
    problems: list[str] = []
    options = read(TuneSettings, chosen, problems)
    raise_problems(problems)
    space = read_space(Path(str(options.space)))
    own = {key: value for key, value in chosen.items() if key not in declared(TuneSettings)}
    config = RaConfig(model, dataset, (), own)
    # A value in a file is where the search starts; one on the command line contradicts the search.
    check_space(space, config, settings)
    space, n_trials = check_options(options, space, config)
    splits = Splits.load(config)
    if not len(splits.valid):
        raise DataError(
            f"data set '{config.dataset}': the split leaves no validation rows to compare trials by; "
            "choose another with --eval_args"
        )
    identity = _identity(options, space, config, splits.fingerprint)
    folder = Path(
        options.sweep_dir
        or Path(config.run.output_dir)
        / f"tune-{config.model}-{config.dataset}-{space.path.stem}-{identity[:8]}"
    ).absolute()
    trial = portable(config.chosen, config)
    for name in ("model", "dataset", "output_dir", "resume", "overwrite"):
        trial.pop(name, None)
    sweep = Sweep(options, space, config, trial, n_trials, folder, identity)
    sweep.check_folder()
    return sweep


def _identity(options: TuneSettings, space: Space, config: RaConfig, data: str) -> str:
    """Return the digest of what decides a sweep's outcome: the same command finds its folder again."""
    given = config.run.backbone_checkpoint
    return digest(
        {
            "model": config.model,
            "data": data,
            "backbone": digest_bytes(Path(given).read_bytes()) if given and Path(given).is_file() else given,
            "parameters": [dataclasses.astuple(parameter) for parameter in space.parameters],
            # With their versions and defaults: what has changed since does not go on beside what was.
            "stages": {
                stage: [STAGES[stage].version, config.shaping(stage)] for stage in sorted(config.stages)
            },
            "set": dict(config.manifest),
            "options": [
                repr(getattr(options, name))
                for name in ("search", "scheduler", "trials", "grace_epochs", "reduction_factor")
            ],
        }
    )


def portable(settings: Mapping[str, Any], config: RaConfig) -> dict[str, Any]:
    """Return what the user set, so that it means the same in any working directory."""
    fixed = {**settings, "checkpoint_dir": str(Path(config["checkpoint_dir"]).absolute())}
    if config.dataset != "ml-100k" or "data_path" in settings:
        fixed["data_path"] = str(Path(settings.get("data_path") or "dataset").absolute())
    for name, value in settings.items():
        if config.about(name).path and isinstance(value, str):
            path, plus = split_plus(value)
            if Path(path).exists():
                fixed[name] = str(Path(path).absolute()) + plus
    return fixed
