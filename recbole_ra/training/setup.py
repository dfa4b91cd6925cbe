"""Builds recommenders, modules and stage configurations from RecBole's settings."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from recbole.data.transform import construct_transform
from recbole.utils import get_model, init_seed

from recbole_ra.core.errors import SettingsError
from recbole_ra.data.dataset import CompactDataset, Fields, Splits
from recbole_ra.data.table import SequenceTable
from recbole_ra.models.backbone import Backbone
from recbole_ra.models.recbole_models import RecBoleRecommender
from recbole_ra.models.recommenders import BackboneRecommender, SequentialModel
from recbole_ra.models.registry import BACKBONES, CLOSED_FORM
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.declared import FeedSettings, OptimSettings

# Models whose constructor reads padded histories from the data set itself.
READS_EXPANDED_ROWS = frozenset({"FEARec"})

# RecBole's settings of how a model is optimised; what a regenerated data set is made with, whatever
# settings the model that trains on it has.
OPTIMISER = {"learner": "adam", "clip_grad_norm": None, "enable_amp": False, "enable_scaler": False}
TEACHER = {"learning_rate": 1e-3, "train_batch_size": 2048, "weight_decay": 0.0, **OPTIMISER}


def seed_everything(config: RaConfig) -> None:
    """Start a stage: what it draws does not depend on the stages before it."""
    init_seed(config.seed_value, config["reproducibility"])


@dataclass
class Base:
    """A backbone before training.

    Attributes
    ----------
    trained : what the trainer sees (has ``calculate_loss`` and ``full_sort_predict``)
    own : the backbone, if it is one of ours
    """

    trained: Any
    own: Backbone | None

    def see(self, sequences: SequenceTable) -> None:
        """Show a model of ours the sequences that it will be trained on."""
        if self.own is not None:
            self.own.see(sequences)
        elif type(self.trained) in CLOSED_FORM.values():
            self.trained.see(sequences)

    def recommender(self, splits: Splits, fields: Fields) -> SequentialModel:
        """Return the trained backbone as a recommender with states and an item table."""
        if self.own is not None:
            return self.trained
        rows = list(range(min(len(splits.train), 64)))
        device = next(self.trained.parameters()).device
        return RecBoleRecommender(self.trained, splits.whole.item_num, fields, splits.train[rows].to(device))


def build_base(config: RaConfig, splits: Splits, training: CompactDataset | None = None) -> Base:
    """Construct the backbone that the settings name.

    Parameters
    ----------
    config : RaConfig
    splits : Splits
    training : CompactDataset, optional
        What it will be trained on; by default the training split.

    Raises
    ------
    SettingsError
        If it cannot be built with these settings, or not for this data set.
    """
    if config["loss_type"] in ("BPR", "BCE") and splits.whole.item_num < 3:
        raise SettingsError(
            f"loss_type={config['loss_type']!r} compares an item with another one, but there is no other; "
            "use CE"
        )
    if config.backbone in BACKBONES:
        backbone = BACKBONES[config.backbone](
            splits.whole.item_num, config["MAX_ITEM_LIST_LENGTH"], config.architecture
        )
        backbone.learn_history_bias(config.scoring.history_bias)
        if config.personalisation.personalize != "none":
            backbone.personalise(config.personalisation.personalize_variant)
        return Base(BackboneRecommender(backbone, Fields.of(config)).to(config.torch_device), backbone)
    if config.backbone in CLOSED_FORM:
        solved = CLOSED_FORM[config.backbone](splits.whole.item_num, Fields.of(config))
        return Base(solved.to(config.torch_device), None)
    train = splits.train
    if config.backbone in READS_EXPANDED_ROWS:
        read = train if training is None else training
        train = read.copy(read[np.arange(len(read))])
    try:
        construct_transform(config)  # writes names of masked or reversed columns that the model then reads
        model = get_model(config.backbone)(config, train)
    except KeyError as error:
        raise SettingsError(
            f"{config.backbone} needs {error}, which neither a setting nor a column gives; columns of .item "
            "and .user are read if load_col names them"
        ) from error
    except (ValueError, TypeError, AttributeError, NotImplementedError, ZeroDivisionError) as error:
        raise SettingsError(
            f"{config.backbone} cannot be built with these settings and this data set: {error}"
        ) from error
    return Base(model.to(config.torch_device), None)


def stage_config(config: RaConfig, stage: str) -> RaConfig:
    """Return the settings as RecBole's trainer reads them in one stage."""
    own = copy.copy(config)
    own.final_config_dict = dict(config.final_config_dict)
    if stage == "raft":
        own.final_config_dict.update(
            epochs=config.raft.raft_epochs,
            learning_rate=config.raft.raft_learning_rate,
            weight_decay=config.raft.raft_weight_decay,
            stopping_step=config.raft.raft_stopping_step,
            train_batch_size=config.raft.raft_batch_size,
        )
    elif stage == "teacher":
        own.final_config_dict.update(TEACHER)
        own.final_config_dict.update(epochs=config.regeneration.teacher_epochs)
        own.feed, own.optim = FeedSettings(), OptimSettings()
    elif stage == "regenerator":
        if not config.only_regenerates:  # model DR4SR is optimised as its settings say
            own.final_config_dict.update(OPTIMISER)
        own.final_config_dict.update(
            enable_amp=False,
            enable_scaler=False,
            epochs=config.regeneration.regenerator_epochs,
            learning_rate=config.regeneration.regenerator_learning_rate,
            weight_decay=0.0,
            eval_step=1,
        )
        own.optim = dataclasses.replace(config.optim, ema_decay=0.0)
    if stage != "backbone":  # none of the others asks its batches for negatives
        own.final_config_dict["train_neg_sample_args"] = {**config["train_neg_sample_args"], "dynamic": False}
    return own
