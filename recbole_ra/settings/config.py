"""RecBole's configuration with our models, defaults and checks on top."""

from __future__ import annotations

import dataclasses
import functools
import os
import reprlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import recbole
import torch
from recbole.config import Config
from recbole.utils import InputType, ModelType

from recbole_ra.core.compat import restore_numpy_aliases
from recbole_ra.core.errors import SettingsError, nearest
from recbole_ra.core.files import digest_bytes
from recbole_ra.core.setting import Setting, declared, raise_problems, read
from recbole_ra.models.losses import LOSSES
from recbole_ra.models.origins import PARTS
from recbole_ra.models.registry import BACKBONES, CLOSED_FORM, OURS, REGENERATOR, backbone_name
from recbole_ra.models.transformer import ACTIVATIONS
from recbole_ra.settings.contradictions import COUNTED, REGENERATIONS, contradictions
from recbole_ra.settings.declared import (
    GROUPS,
    OUR_SETTINGS,
    BankSettings,
    FeedSettings,
    OptimSettings,
    PatternSettings,
    PersonalisationSettings,
    RaftSettings,
    RegenerationSettings,
    RunSettings,
    ScoringSettings,
)
from recbole_ra.settings.files import (
    YamlLoader,
    part_of,
    plain_value,
    props_root,
    read_files,
    read_manifest,
    read_yaml,
    split_plus,
)
from recbole_ra.settings.recbole import (
    CATEGORIES,
    IGNORED,
    RECBOLE,
    TRAINED,
    UNLISTED,
    larger_is_better,
    recbole_problems,
)
from recbole_ra.settings.stages import stages_before

_BRIEF = reprlib.Repr()  # values that refer to others nine times over would fill the memory
_BRIEF.maxlevel = 2


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

    feed: FeedSettings
    optim: OptimSettings
    scoring: ScoringSettings
    patterns: PatternSettings
    regeneration: RegenerationSettings
    personalisation: PersonalisationSettings
    bank: BankSettings
    raft: RaftSettings
    run: RunSettings

    def __init__(
        self,
        model: str | None,
        dataset: str | None,
        config_files: str | Path | Iterable[str | Path] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = {
            **read_files(config_files),
            **{name: plain_value(value) for name, value in (overrides or {}).items()},
        }
        model = model or chosen.get("model")
        dataset = dataset or chosen.get("dataset")
        if not model or not dataset:
            missing = "--model" if not model else "--dataset"
            raise SettingsError(f"{missing} is missing; for example: --model=RaSASRec --dataset=ml-100k")
        for key, value in (("model", model), ("dataset", dataset)):
            if not isinstance(value, str):
                raise SettingsError(f"{key}={value!r} must be text; in YAML, put it between quotes")
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
        for name, group in GROUPS.items():
            setattr(self, name, read(group, self.final_config_dict, problems))
        if self.only_regenerates and "regenerate" not in self._user_keys:
            self.regeneration = dataclasses.replace(self.regeneration, regenerate="dr4sr")
        self._personalise()
        self._read_set(problems)
        if self.bank.memory_scope == "past" and "fusion" not in self._user_keys:
            self.raft = dataclasses.replace(self.raft, fusion=self.raft.fuses)  # transitions know no time
        self.architecture: Any = None
        if self.backbone in OURS:
            self.architecture = read(OURS[self.backbone].Settings, self.final_config_dict, problems)
        self._check(problems)
        raise_problems(problems)

    def _personalise(self) -> None:
        """Read the + of ``regenerate=dr4sr+``."""
        kind, plus = split_plus(self.regeneration.regenerate)
        self.regeneration = dataclasses.replace(self.regeneration, regenerate=kind)
        if plus and self.personalisation.personalize == "none":
            self.personalisation = dataclasses.replace(self.personalisation, personalize="bilevel")

    def _read_set(self, problems: list[str]) -> None:
        """Read how the set was made that ``regenerate`` names, if it names one."""
        kind = self.regeneration.regenerate
        is_set = kind not in REGENERATIONS and os.path.exists(kind)
        self.manifest: Mapping[str, Any] = read_manifest(Path(kind)) if is_set else {}
        known = part_of(self.manifest, "settings")
        self.made_with = {name: value for name, value in known.items() if name in self.own}
        copies = "original_copies"
        if copies not in self.made_with:
            return
        if problem := self.own[copies].problem(self.made_with[copies]):
            problems.append(f"{kind}: its manifest says {problem}; write the set again")
        elif copies not in self._user_keys:
            self.regeneration = dataclasses.replace(self.regeneration, original_copies=self.made_with[copies])

    def shapes_set(self, name: str) -> bool:
        """Tell whether a setting shapes the rows of a regenerated set, which reading it cannot change."""
        return name in COUNTED or bool(self.about(name).shapes & stages_before("rows"))

    def as_made(self, name: str) -> bool:
        """Tell whether a setting has the value with which the set was made that is read."""
        if name not in self.made_with:
            return False
        value, made = self[name], self.made_with[name]
        if self.about(name).path and isinstance(value, str) and isinstance(made, str):
            value, made = os.path.abspath(value), os.path.abspath(made)
        return bool(value == made)

    # What RecBole's Config does in its constructor, step by step.

    def compatibility_settings(self) -> None:
        """Restore the NumPy aliases that RecBole reads (see ``compat.py``)."""
        restore_numpy_aliases()

    def _build_yaml_loader(self) -> type[YamlLoader]:
        return YamlLoader

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _get_model_and_dataset(self, model: str, dataset: str) -> tuple[str, type, str]:
        if self.backbone in OURS:
            return model, _OwnModel, dataset
        from recbole.utils import get_model

        # It imports all models, of which SINE has torch trace every operation of this process from then on.
        with torch.autograd.set_detect_anomaly(torch.is_anomaly_enabled()):
            return model, get_model(self.backbone), dataset

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        super()._load_internal_config_dict(self.backbone, model_class, dataset)
        self.internal_config_dict.update(self.model_defaults)
        other_files = self.internal_config_dict.get("load_col") or {}
        root = props_root()
        for path in (
            root / "overall.yaml",
            root / "model" / f"{self.backbone}.yaml",
            root / "model" / f"{model}.yaml",
            root / "dataset" / f"{dataset}.yaml",
        ):
            if os.path.isfile(path):  # False, too, for a name longer than the file system takes
                self.internal_config_dict.update(read_yaml(path))
        # Ours names columns of .inter; which columns of .item and .user a model reads, RecBole knows.
        load_col = self.internal_config_dict.get("load_col") or {}
        self.internal_config_dict["load_col"] = {**other_files, **load_col}
        self.known = self._known_keys()

    @functools.cached_property
    def model_defaults(self) -> dict[str, Any]:
        """Settings of the backbone's architecture, and their defaults."""
        if self.backbone in OURS:
            return {name: about.default for name, about in declared(OURS[self.backbone].Settings).items()}
        file = Path(recbole.__file__).parent / "properties" / "model" / f"{self.backbone}.yaml"
        return read_yaml(file) if file.is_file() else {}

    @functools.cached_property
    def own(self) -> dict[str, Setting]:
        """What settings of ours declare, those of the backbone's architecture among them."""
        classes = [
            *OUR_SETTINGS,
            *([OURS[self.backbone].Settings] if self.backbone in OURS else []),
        ]
        return {name: about for cls in classes for name, about in declared(cls).items()}

    def about(self, name: str) -> Setting:
        """Return what a setting declares; of RecBole's undeclared ones, what its own lists say."""
        found = self.own.get(name) or RECBOLE.get(name)
        if found is not None and name in self.own and name in self.model_defaults:
            # A model of RecBole's has a setting of that name: it shapes the backbone too.
            found = dataclasses.replace(found, shapes=found.shapes | {"backbone"})
        if found is not None:
            return found
        if name not in self.known:  # RecBole derives it from others
            return Setting("", name=name)
        fixed = [why for category, why in CATEGORIES.items() if name in self.parameters[category]]
        return Setting(
            "",
            name=name,
            shapes=TRAINED,
            fixed=fixed[0] if fixed else "",
            while_training="dropout" in name,
            expert=True,
        )

    @property
    def everything(self) -> dict[str, Any]:
        """Every setting that a run reads, RecBole's and ours, those left at their defaults too."""
        known = {} if self.architecture is None else dict(vars(self.architecture))
        for name in GROUPS:
            known.update(vars(getattr(self, name)))
        return {**self.final_config_dict, **known}

    @property
    def last_stage(self) -> str:
        """The stage whose epochs are reported, and which a run may continue from another one's."""
        return "raft" if self.uses_retrieval else "backbone"

    @functools.cached_property
    def stages(self) -> frozenset[str]:
        """Stages that take part in this run."""
        kind = self.regeneration.regenerate
        found = set() if self.only_regenerates else {"backbone"}
        if self.uses_retrieval:
            found |= {"bank", "raft", "test_bank"}
        if kind != "none":
            found.add("rows")
        if kind in ("auto", "dr4sr"):
            found |= {"teacher", "regenerator", "decoded"}
        if kind in ("auto", "dr4sr", "patterns") or (
            self.uses_retrieval and self.bank.memory_source != "enumerate"
        ):
            found.add("patterns")
        return frozenset(found)

    def shaping(self, stage: str) -> dict[str, str]:
        """Return the settings that shape a stage's result; of a path, the digest of what it holds."""
        found = {}
        for name, value in {**self.everything, "model": self.backbone}.items():
            about = self.about(name)
            if stage not in about.shapes:
                continue
            if about.path and isinstance(value, str) and Path(value).is_file():
                value = digest_bytes(Path(value).read_bytes())
            found[name] = repr(value)
        return found

    def without_effect(self, names: Iterable[str], searched: Collection[str] = ()) -> dict[str, str]:
        """Return those of some settings, ours and of training, that nothing reads, and with what else.

        ``searched`` are settings that have another value in each trial.
        """
        names = set(names)
        fusion = f", fusion={self.raft.fusion}" if self.uses_retrieval else ""
        idle = self.outside_stages(names)
        if self.uses_retrieval and "fusion" not in searched:
            idle |= names & self.raft.unread
        found = dict.fromkeys(idle, f"model={self.model}, regenerate={self.regeneration.regenerate}{fusion}")
        for name, condition in self._unread(searched).items():
            if name in names and name not in found:
                found[name] = f"{condition}={self.everything[condition]}"
        return dict(sorted(found.items()))

    def outside_stages(self, names: Iterable[str]) -> set[str]:
        """Return those of some settings of ours that shape no stage of this run."""
        return {
            name
            for name in {*names} & self.own.keys() - {"regenerate"}
            if self.about(name).shapes and not self.about(name).shapes & self.stages
        }

    def _unread(self, searched: Collection[str]) -> dict[str, str]:
        """Return settings that nothing reads, each with the one that decides so, unless that is searched."""
        training = {*self.parameters["Training"], *UNLISTED, "loss_type", *vars(self.feed), *vars(self.optim)}
        of_model = {"metric_decimal_place"}  # metrics are compared as they are
        if self.backbone in CLOSED_FORM:
            of_model |= training
        if self.only_regenerates:
            of_model |= training - {"learner", "clip_grad_norm"} | {"valid_metric"}
        if self.backbone not in BACKBONES:  # a space for any model may search them all the same
            of_model |= {*vars(self.feed)} - {*searched}
        elif not BACKBONES[self.backbone].causal:
            of_model |= {"targets_per_pass"} - {*searched}
        regeneration, personalisation = self.regeneration, self.personalisation
        personalised = self.backbone in BACKBONES and self.run.workers == 1
        plain = personalisation.personalize == "none" and not (
            regeneration.regenerate == "auto" and personalised
        )
        weighs = {*vars(personalisation)} - {"personalize"}
        found: dict[str, str] = {}
        for condition, holds, settings in (
            ("model", True, of_model),
            ("personalize", plain, weighs),
            ("index_type", self.bank.index_type != "IVFFlat", {"nlist", "nprobe"}),
            ("diversity", not regeneration.diversity, {"n_latents", "balance_weight"}),
            ("variant", regeneration.variant == "released", {"gamma"}),
            ("loss_type", self["loss_type"] == "CE", {"n_negatives"}),
        ):
            if holds and condition not in searched:
                found = {**dict.fromkeys(settings, condition), **found}
        return found

    @property
    def chosen_weights(self) -> tuple[str, ...]:
        """Weights of memories that are chosen on validation, in that order; one that the user gave stays."""
        there = (("alpha", self.raft.fuses), ("mixture_weight", self.raft.mixes))
        return tuple(
            name for name, used in there if self.raft.choose_weights and used and name not in self._user_keys
        )

    @property
    def built_with(self) -> dict[str, Any]:
        """Settings of the backbone that another value would make wrong, also where its weights still fit."""
        names = {*self.model_defaults, "MAX_ITEM_LIST_LENGTH"} - {*PARTS}
        return {name: self.everything[name] for name in sorted(names) if "dropout" not in name}

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
        modes = list(mode.values()) if isinstance(mode, dict) else [mode]
        if any(one not in (None, "full") for one in modes):
            raise SettingsError(
                f"eval_args mode={mode!r}: every item is ranked here; only mode 'full' is supported"
            )
        data_path = final["data_path"]
        if not isinstance(data_path, str) or not data_path:
            raise SettingsError(f"data_path={data_path!r} must be the name of a folder")
        super()._set_default_parameters()
        final["valid_metric_bigger"] = larger_is_better(final["valid_metric"])
        final["metric_decimal_place"] = 17  # in full: what is rounded would select another epoch
        if self.dataset == "ml-100k" and "data_path" in self._user_keys:
            if not os.path.isdir(data_path):
                raise SettingsError(
                    f"data_path={data_path!r} is no folder; leave it out for RecBole's ml-100k"
                )
            own = os.path.join(data_path, self.dataset)
            if os.path.lexists(own):  # whatever it is, it is not RecBole's that was meant
                final["data_path"] = own
        if self.backbone in BACKBONES and final.get("loss_type") not in LOSSES:
            raise SettingsError(f"loss_type={final.get('loss_type')!r} must be one of {', '.join(LOSSES)}")

    def _init_device(self) -> None:
        final, name = self.final_config_dict, "CUDA_VISIBLE_DEVICES"
        visible, on_cpu = os.environ.get(name), final.get("use_gpu") is False
        if on_cpu:
            final["gpu_id"] = ""
        elif visible is not None and "gpu_id" not in self._user_keys:
            final["gpu_id"] = visible  # the job's; RecBole would take the machine's first
        super()._init_device()
        if not on_cpu:
            return
        # RecBole hides every GPU from the process then, and from what is started in it later.
        if visible is None:
            del os.environ[name]
        else:
            os.environ[name] = visible

    # Checks of ours.

    def _known_keys(self) -> frozenset[str]:
        listed = (key for keys in self.parameters.values() for key in keys)
        return frozenset({*RECBOLE, *self.internal_config_dict, *self.own, *listed})

    def _check(self, problems: list[str]) -> None:
        final = self.final_config_dict
        if Path(self.dataset).name != self.dataset:
            problems.append(
                f"dataset={self.dataset!r} must be the name of a folder; say where that lies with --data_path"
            )
        useful = self.known - {*IGNORED} | {"config_files"}
        for key in sorted(self._user_keys - self.known):
            hint = "; use_gpu and gpu_id choose it" if key == "device" else nearest(key, useful)
            problems.append(f"unknown setting {key!r} (value {_BRIEF.repr(self.chosen[key])}){hint}")
        for problem in recbole_problems(final, self.internal_config_dict, self._user_keys - self.own.keys()):
            if problem not in problems:
                problems.append(problem)
        if not problems:  # a value that is wrong by itself cannot be compared with others
            problems.extend(contradictions(self))
        layout = getattr(self.architecture, "layout", None)
        if layout is not None and "hidden_act" in self._user_keys:
            has = ACTIVATIONS[layout]
            if final["hidden_act"] != has:
                problems.append(f"hidden_act={final['hidden_act']!r}: layout={layout} has {has}")

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
    input_type = InputType.POINTWISE  # asked where there is no loss_type
