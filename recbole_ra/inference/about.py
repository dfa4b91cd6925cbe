"""The description of a saved recommender, from which its model is built without the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from recbole_ra.core.errors import CheckpointError
from recbole_ra.data.dataset import Splits
from recbole_ra.models.origins import PARTS
from recbole_ra.models.recbole_models import Product, RecBoleRecommender
from recbole_ra.models.registry import BACKBONES
from recbole_ra.retrieval.recommender import RetrievalRecommender
from recbole_ra.settings.config import RaConfig
from recbole_ra.training.run import Run
from recbole_ra.training.setup import build_base

BUILT_FROM = frozenset({"backbone", "raft"})
"""Stages whose settings a model is built with."""


@dataclass(frozen=True)
class About:
    """The description of a recommender.

    Attributes
    ----------
    model, dataset : str
    settings : mapping
        Those that the model is built with.
    n_users, n_items : int
        Of the data that it was trained on, padding included.
    product : mapping or None
        How an observed model of RecBole's scores (:class:`Product`), where memories are fused into it.
    versions : mapping
        Of what computed it.
    """

    model: str
    dataset: str
    settings: Mapping[str, Any]
    n_users: int
    n_items: int
    product: Mapping[str, Any] | None
    versions: Mapping[str, str]

    @classmethod
    def of(cls, run: Run, model: Any, versions: Mapping[str, str]) -> About:
        """Describe the trained model of a run.

        Raises
        ------
        CheckpointError
            If the model cannot be built again without the data set.
        """
        config, dataset = run.config, run.splits.whole
        base = model.base if isinstance(model, RetrievalRecommender) else None
        product = vars(base.product) if isinstance(base, RecBoleRecommender) else None
        settings = lasting_settings(config)
        if isinstance(model, RetrievalRecommender):
            settings |= model.weights  # as they were chosen
        about = cls(
            config.model,
            config.dataset,
            settings,
            dataset.user_num,
            dataset.item_num,
            product,
            dict(versions),
        )
        if config.backbone not in BACKBONES:
            with torch.random.fork_rng():
                about.base(config)
        return about

    def config(self, device: torch.device | str) -> RaConfig:
        """Read the settings as a run does."""
        config = RaConfig(self.model, self.dataset, (), {**self.settings, "use_gpu": False, "state": "ERROR"})
        config.final_config_dict["device"] = torch.device(device)
        return config

    def base(self, config: RaConfig) -> Any:
        """Build the backbone, untrained, from sizes alone."""
        sizes: Any = StandIn(config, self.n_users, self.n_items)
        return build_base(config, Splits(sizes, sizes, sizes, sizes))

    def observed(self) -> Product | None:
        """Return :attr:`product` as an object."""
        return None if self.product is None else Product(**self.product)


def lasting_settings(config: RaConfig) -> dict[str, Any]:
    """Collect the settings that a model is built with: chosen ones, and defaults that may change."""
    names = {name for name in config.chosen if config.about(name).shapes & BUILT_FROM}
    names |= {*config.model_defaults, *vars(config.raft), *vars(config.scoring)}
    names |= {"MAX_ITEM_LIST_LENGTH", "memory_scope"}
    names -= {*vars(config.regeneration), *vars(config.personalisation), *PARTS}  # of training alone
    kept = {name: config.chosen.get(name, config.everything[name]) for name in names & config.known}
    return {
        name: value
        for name, value in sorted(kept.items())
        if not config.about(name).path and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


class StandIn:
    """Stands in for the data set where RecBole's models are constructed: it knows the sizes alone."""

    def __init__(self, config: RaConfig, n_users: int, n_items: int) -> None:
        self.config = config
        self.user_num, self.item_num = n_users, n_items
        item = config["ITEM_ID_FIELD"]
        self._sizes = {config["USER_ID_FIELD"]: n_users, item: n_items}
        self.field2seqlen = {item + config["LIST_SUFFIX"]: config["MAX_ITEM_LIST_LENGTH"]}
        # FEARec lists the training rows of each item, to train with.
        self.inter_feat = {item: torch.empty(0, dtype=torch.int64)}

    def __len__(self) -> int:
        return 0

    def __getitem__(self, rows: Any) -> StandIn:
        return self

    def copy(self, _: Any) -> StandIn:
        """Return itself: it has no rows."""
        return self

    def num(self, field: str) -> int:
        """Return how many values a field has."""
        if field not in self._sizes:
            raise self._refusal(f"field {field}")
        return self._sizes[field]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._refusal(name)

    def _refusal(self, what: str) -> CheckpointError:
        name = self.config.backbone
        return CheckpointError(
            f"{name} reads more of the data set than its sizes ({what}), so it cannot be used without it"
        )
