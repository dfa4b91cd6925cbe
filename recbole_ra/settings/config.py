"""RecBole's configuration with our models, defaults and checks on top."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import recbole
import torch
import yaml
from recbole.config import Config
from recbole.utils import ModelType

from recbole_ra.core.compat import restore_numpy_aliases
from recbole_ra.core.errors import SettingsError, nearest
from recbole_ra.core.setting import raise_problems, read
from recbole_ra.models.registry import BACKBONES, REGENERATOR, SEQUENTIAL_MODELS_OF_RECBOLE, backbone_name
from recbole_ra.settings.contradictions import contradictions
from recbole_ra.settings.declared import (
    OUR_SETTINGS,
    BankSettings,
    FeedSettings,
    OptimSettings,
    PatternSettings,
    RaftSettings,
    RegenerationSettings,
    RunSettings,
)
from recbole_ra.settings.recbole import larger_is_better, recbole_problems

# Keys that RecBole reads although no default file or argument list of its names them.
EXTRA_KEYS = frozenset(
    "model dataset config_files gpu_id nproc world_size ip port offset local_rank benchmark_filename "
    "numerical_features threshold preload_weight alias_of_user_id alias_of_item_id mask_ratio ft_ratio "
    "train_batch_size loss_type reg_weight require_pow enable_scaler discretization".split()
)


def props_root() -> Path:
    """The folder of default files: inside an installed package, else beside it in a clone."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "props"
    return inside if inside.is_dir() else package.parent / "props"


class _YamlLoader(yaml.SafeLoader):
    """Safe YAML that reads ``1e-3`` as a number, as RecBole's loader does."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+)$"
    ),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """Read one command-line value as YAML (never as code); ``None`` and Python literals work too."""
    if text in ("None", "~", ""):
        return None
    try:
        return yaml.load(text.replace("\t", "\\t"), Loader=_YamlLoader)
    except (yaml.YAMLError, ValueError, AttributeError):  # the latter two: 2020-13-45, !!int x, !!timestamp x
        return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Raises
    ------
    SettingsError
        If the file is missing, is not YAML, or is not a mapping of keys to values.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file; check --config_files") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); check --config_files") from error
    except (yaml.YAMLError, ValueError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path}{line}: not valid YAML; write one 'key: value' a line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds no settings; write one 'key: value' a line")
    for key in content:
        if not isinstance(key, str):
            raise SettingsError(f"{path}: {key!r} names no setting; write one 'key: value' a line")
    return content


class RaConfig(Config):
    """RecBole's ``Config`` for our models and RecBole's sequential ones.

    Differences from the base: values are never evaluated as code, ``sys.argv`` is not read,
    unknown keys and wrong types are errors, and our default files come after RecBole's.

    Parameters
    ----------
    model, dataset : str
    config_files : sequence of paths
        Read in order; later files win.
    overrides : mapping
        What the user set; wins over every file.

    Raises
    ------
    SettingsError
        For everything that is wrong with the settings, all in one line.
    """

    def __init__(
        self,
        model: str | None,
        dataset: str | None,
        config_files: Iterable[str | Path] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        from_files: dict[str, Any] = {}
        for path in config_files:
            from_files.update(read_yaml(Path(path)))
        chosen = {**from_files, **(overrides or {})}
        model = model or chosen.get("model")
        dataset = dataset or chosen.get("dataset")
        if not model or not dataset:
            missing = "--model" if not model else "--dataset"
            raise SettingsError(f"{missing} is missing; for example: --model=RaSASRec --dataset=ml-100k")
        self.backbone = backbone_name(model)
        self.only_regenerates = model == REGENERATOR
        self.uses_retrieval = self.backbone != model and not self.only_regenerates
        chosen.update(model=model, dataset=dataset)
        self.chosen: Mapping[str, Any] = dict(chosen)
        self._user_keys = frozenset(chosen)
        try:
            super().__init__(model=model, dataset=dataset, config_dict=chosen)
        except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
            reason = str(error.args[0] if error.args else "").splitlines() or [type(error).__name__]
            raise SettingsError(reason[0]) from error
        problems: list[str] = []
        self.feed = read(FeedSettings, self.final_config_dict, problems)
        self.optim = read(OptimSettings, self.final_config_dict, problems)
        self.patterns = read(PatternSettings, self.final_config_dict, problems)
        self.regeneration = read(RegenerationSettings, self.final_config_dict, problems)
        if self.only_regenerates and "regenerate" not in self._user_keys:
            self.regeneration = dataclasses.replace(self.regeneration, regenerate="dr4sr")
        self.bank = read(BankSettings, self.final_config_dict, problems)
        self.raft = read(RaftSettings, self.final_config_dict, problems)
        self.run = read(RunSettings, self.final_config_dict, problems)
        self.architecture: Any = None
        if self.backbone in BACKBONES:
            self.architecture = read(BACKBONES[self.backbone].Settings, self.final_config_dict, problems)
        self._check(problems)
        raise_problems(problems)

    # What RecBole's Config does in its constructor, step by step.

    def compatibility_settings(self) -> None:
        """Restore the NumPy aliases that RecBole reads (see ``compat.py``)."""
        restore_numpy_aliases()

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return _YamlLoader

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _get_model_and_dataset(self, model: str, dataset: str) -> tuple[str, type, str]:
        if self.backbone in BACKBONES:
            return model, _OwnModel, dataset
        from recbole.utils import get_model

        return model, get_model(self.backbone), dataset

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(self.backbone, model_class, dataset)
        other_files = self.internal_config_dict.get("load_col") or {}
        root = props_root()
        for path in (
            root / "overall.yaml",
            root / "model" / f"{self.backbone}.yaml",
            root / "model" / f"{model}.yaml",
            root / "dataset" / f"{dataset}.yaml",
        ):
            if path.is_file():
                self.internal_config_dict.update(read_yaml(path))
        # Ours names columns of .inter; which columns of .item and .user a model reads, RecBole knows.
        load_col = self.internal_config_dict.get("load_col") or {}
        self.internal_config_dict["load_col"] = {**other_files, **load_col}
        self.known = self._known_keys()

    @property
    def everything(self) -> dict[str, Any]:
        """Every setting that a run reads, RecBole's and ours, those left at their defaults too."""
        stages = (self.feed, self.optim, self.patterns, self.regeneration, self.bank, self.raft, self.run)
        known = {} if self.architecture is None else dict(vars(self.architecture))
        for settings in stages:
            known.update(vars(settings))
        return {**known, **self.final_config_dict}

    def without_effect(self, names: Iterable[str]) -> list[str]:
        """Those of some settings of ours that nothing reads in this run."""
        mined = self.regeneration.regenerate in ("dr4sr", "patterns") or (
            self.uses_retrieval and self.bank.memory_source != "enumerate"
        )
        idle: set[str] = set()
        for settings, is_read in (
            (RaftSettings, self.uses_retrieval),
            (BankSettings, self.uses_retrieval),
            (RegenerationSettings, self.regeneration.regenerate != "none"),
            (PatternSettings, mined),
        ):
            if not is_read:
                idle.update(field.name for field in dataclasses.fields(settings))
        # What a backbone's own default files name (n_heads, a model's alpha) is the backbone's too.
        return sorted((set(names) & idle) - set(self.internal_config_dict) - {"regenerate"})

    @property
    def built_with(self) -> dict[str, Any]:
        """Settings of the backbone that another value would make wrong, also where its weights still fit."""
        own = self.architecture
        if own is not None:
            settings = dataclasses.asdict(own)
        else:
            defaults = Path(recbole.__file__).parent / "properties" / "model" / f"{self.backbone}.yaml"
            settings = {key: self[key] for key in (read_yaml(defaults) if defaults.is_file() else {})}
        settings["MAX_ITEM_LIST_LENGTH"] = self["MAX_ITEM_LIST_LENGTH"]
        return {key: value for key, value in settings.items() if "dropout" not in key}

    def _set_default_parameters(self) -> None:
        final = self.final_config_dict
        if "train_neg_sample_args" not in self._user_keys and final.get("loss_type") == "CE":
            final["train_neg_sample_args"] = None
        if not isinstance(final["valid_metric"], str):
            raise SettingsError(f"valid_metric={final['valid_metric']!r} must be text such as NDCG@10")
        metrics = final["metrics"] if isinstance(final["metrics"], list) else [final["metrics"]]
        if not metrics or not all(isinstance(metric, str) for metric in metrics):
            raise SettingsError(f"metrics={final['metrics']!r} must be names such as [Recall, NDCG]")
        if isinstance(final["eval_args"], dict):
            final["eval_args"] = {**self.internal_config_dict["eval_args"], **final["eval_args"]}
        mode = final["eval_args"].get("mode") if isinstance(final.get("eval_args"), dict) else None
        modes = set(mode.values()) if isinstance(mode, dict) else {mode}
        if not modes <= {None, "full"}:
            raise SettingsError(
                f"eval_args mode={mode!r}: every item is ranked here; only mode 'full' is supported"
            )
        data_path = final["data_path"]
        super()._set_default_parameters()
        final["valid_metric_bigger"] = larger_is_better(final["valid_metric"])
        if self.dataset == "ml-100k" and "data_path" in self._user_keys:
            if not os.path.isdir(data_path):
                raise SettingsError(
                    f"data_path={data_path!r} is no folder; leave it out for RecBole's ml-100k"
                )
            own = os.path.join(data_path, self.dataset)
            if os.path.isdir(own):
                final["data_path"] = own
        if self.backbone in BACKBONES and final.get("loss_type") not in ("CE", "BPR"):
            raise SettingsError(f"loss_type={final.get('loss_type')!r} must be one of CE, BPR")

    def _init_device(self) -> None:
        if self.final_config_dict.get("use_gpu") is False:
            self.final_config_dict["gpu_id"] = ""
        super()._init_device()

    # Checks of ours.

    def _known_keys(self) -> frozenset[str]:
        known = set(EXTRA_KEYS) | set(self.internal_config_dict)
        known.update(key for keys in self.parameters.values() for key in keys)
        for settings in (
            *OUR_SETTINGS,
            *([BACKBONES[self.backbone].Settings] if self.backbone in BACKBONES else []),
        ):
            known.update(field.name for field in dataclasses.fields(settings))
        return frozenset(known)

    def _check(self, problems: list[str]) -> None:
        final = self.final_config_dict
        for key in sorted(self._user_keys - self.known):
            hint = "; use_gpu and gpu_id choose it" if key == "device" else nearest(key, self.known)
            problems.append(f"unknown setting {key!r} (value {self.chosen[key]!r}){hint}")
        ours = {field.name for settings in OUR_SETTINGS for field in dataclasses.fields(settings)}
        for problem in recbole_problems(final, self.internal_config_dict, self._user_keys - ours):
            if problem not in problems:
                problems.append(problem)
        problems.extend(contradictions(self))
        if self.backbone in BACKBONES and final.get("hidden_act", "gelu") != "gelu":
            problems.append(f"hidden_act={final['hidden_act']!r}: {self.backbone} uses gelu only")

    @property
    def torch_device(self) -> torch.device:
        """Where training and scoring happen."""
        return torch.device(self.final_config_dict["device"])

    @property
    def seed_value(self) -> int:
        """The run's seed."""
        return int(self.final_config_dict["seed"])


class _OwnModel:
    """What RecBole's ``Config`` asks of a model class, for those that are ours."""

    type = ModelType.SEQUENTIAL


def available_backbones() -> list[str]:
    """Every backbone that ``--model`` takes, alone or with ``Ra`` before it."""
    return [*BACKBONES, *(name for name in SEQUENTIAL_MODELS_OF_RECBOLE if name not in BACKBONES)]
