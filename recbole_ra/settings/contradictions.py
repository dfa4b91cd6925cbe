"""What settings say against each other, each of them right by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_ra.core.errors import nearest
from recbole_ra.data.table import ORIGINS, split_origins
from recbole_ra.models.origins import PARTS
from recbole_ra.models.registry import BACKBONES, CLOSED_FORM, REGENERATOR
from recbole_ra.settings.declared import RegenerationSettings
from recbole_ra.settings.files import sequences_file

if TYPE_CHECKING:
    from recbole_ra.settings.config import RaConfig

REGENERATIONS = ("none", "auto", "dr4sr", "patterns")

COUNTED = ("deduplicate", "min_multiplicity")
"""Settings of regeneration that look at how often each row was made, which a set does not tell."""


def contradictions(config: RaConfig) -> Iterator[str]:
    """Say which settings do not go together, or would do nothing."""
    if isinstance(config["MAX_ITEM_LIST_LENGTH"], int):
        yield from _of_regeneration(config)
    yield from _of_personalisation(config)
    yield from _of_validation(config)
    yield from _of_memories(config)
    yield from _of_loaders(config)
    if config.backbone in CLOSED_FORM and config.run.workers > 1:
        yield f"workers={config.run.workers}: {config.backbone} is solved in one process; leave it out"


def _ours(config: RaConfig) -> str:
    """Say which backbones are ours, where the settings name another one."""
    return f"backbones of ours ({', '.join(BACKBONES)}); {config.backbone} is none of them"


def longest_decoded(config: RaConfig) -> int:
    """Return how many positions the regenerator has; ``decode_length`` may then change without training."""
    return max(
        int(config["MAX_ITEM_LIST_LENGTH"]), config.patterns.window, RegenerationSettings.decode_length
    )


def _of_regeneration(config: RaConfig) -> Iterator[str]:
    """Check the settings of regeneration."""
    regeneration = config.regeneration
    kind = regeneration.regenerate
    if kind not in REGENERATIONS:
        yield from _of_set(config)
    if regeneration.min_multiplicity > 1 and kind in ("none", "patterns"):
        yield (
            f"min_multiplicity={regeneration.min_multiplicity} counts how often a row was decoded, but "
            "nothing is; add --regenerate=dr4sr"
        )
    if regeneration.promoter_agrees and not regeneration.diversity:
        yield "promoter_agrees=True asks the promoter, which there is none of with diversity=False; drop one"
    yield from _of_rows(config)
    yield from _of_parts(config)
    yield from _of_choice(config)
    if config.only_regenerates and kind not in ("dr4sr", "patterns"):
        yield f"regenerate={kind!r}: model {REGENERATOR} makes a data set; use dr4sr or patterns"
    yield from _unknown_origins("regenerate_origins", regeneration.origins)
    if regeneration.regenerator_width % 2:
        yield f"regenerator_width={regeneration.regenerator_width} must be even: it has 2 attention heads"
    if regeneration.decode_length > longest_decoded(config) and kind in REGENERATIONS:
        yield (
            f"decode_length={regeneration.decode_length} must be <= {longest_decoded(config)}; raise "
            "MAX_ITEM_LIST_LENGTH for more"
        )
    if config.run.export_dir is not None and kind == "none":
        yield f"export_dir={config.run.export_dir!r} but nothing is regenerated; add --regenerate=dr4sr"
    if config.bank.memory_data == "regenerated" and kind == "none":
        yield "memory_data='regenerated' but nothing is regenerated; add --regenerate=dr4sr"


def _of_set(config: RaConfig) -> Iterator[str]:
    """Refuse what is no set, and what would make other rows than those that one holds already."""
    kind = config.regeneration.regenerate
    if not os.path.exists(kind):
        names = ", ".join(REGENERATIONS)
        yield f"regenerate={kind!r} is neither {names} nor a file or folder{nearest(kind, REGENERATIONS)}"
    if not os.path.exists(sequences_file(Path(kind))):
        return  # a folder without one is told where it is read
    idle = [key for key in config.chosen if config.shapes_set(key)]
    for key in sorted({*config.outside_stages(idle), *COUNTED} & config.chosen.keys()):
        said = f"{key}={config[key]!r} has no effect on what {kind} holds already"
        if key in config.made_with and not config.as_made(key):
            yield f"{said}, made with {config.made_with[key]!r}; leave it out"
        elif key not in config.made_with and not (key == "min_multiplicity" and config[key] == 1):
            yield f"{said}; leave it out"
    if config.regeneration.row_weight != "none":
        yield (
            f"row_weight={config.regeneration.row_weight!r} asks how often each row was made, which "
            f"{kind} does not tell; leave it out"
        )


def _of_choice(config: RaConfig) -> Iterator[str]:
    """Refuse what asks for regenerated rows, or for one backbone, where both are still to be chosen."""
    if config.regeneration.regenerate != "auto":
        return
    if config.run.export_dir is not None:
        yield (
            f"export_dir={config.run.export_dir!r}: regenerate=auto may choose the originals, of "
            "which nothing is exported; name what is regenerated"
        )
    if config.bank.memory_data == "regenerated":
        yield "memory_data='regenerated': regenerate=auto may choose the originals; use memory_data=original"
    if config.run.backbone_checkpoint is not None:
        yield (
            f"backbone_checkpoint={config.run.backbone_checkpoint!r}: regenerate=auto trains a backbone "
            "on each kind of training data; name the one of this backbone"
        )
    if not {"pattern", "regenerated"} & {*config.regeneration.origins}:
        yield (
            f"regenerate_origins={config.regeneration.regenerate_origins!r}: regenerate=auto would choose "
            "among originals alone; let it hold pattern or regenerated"
        )
    if config.personalisation.personalize != "none":
        yield (
            f"personalize={config.personalisation.personalize!r}: regenerate=auto tries DR4SR with "
            "and without; leave it out"
        )


def _of_rows(config: RaConfig) -> Iterator[str]:
    """Refuse what says how regenerated rows train where there are none, or nothing that could do so."""
    settings = config.regeneration
    said = {name: getattr(settings, name) != "none" for name in ("row_weight", "position_offset")}
    said["regenerate_epochs"] = settings.regenerate_epochs > 0
    if said["position_offset"] and "original" not in settings.origins:
        yield (
            "position_offset='random' puts regenerated rows where original ones stand, and none of these "
            "trains; let regenerate_origins hold original"
        )
    for key in (name for name, is_on in said.items() if is_on):
        what = f"{key}={config[key]!r}"
        if settings.regenerate == "none":
            yield f"{what} but nothing is regenerated; add --regenerate=dr4sr"
        if config.backbone not in BACKBONES:
            yield f"{what} is for {_ours(config)}"
    positions = getattr(config.architecture, "positions", None)
    if said["position_offset"] and positions == "end":
        yield (
            "position_offset='random': positions=end counts from the last item, which is the same place in a "
            "row of any length; use positions=start"
        )
    elif said["position_offset"] and positions is None and config.backbone in BACKBONES:
        yield f"position_offset='random': {config.backbone} counts no positions; leave it out"
    sampling = config["train_neg_sample_args"]
    if config.run.workers > 1 and isinstance(sampling, dict) and sampling.get("dynamic"):
        yield f"train_neg_sample_args: dynamic negatives and workers={config.run.workers}: use one worker"
    for key in ("row_weight", "regenerate_epochs"):
        what = f"{key}={config[key]!r}"
        if said[key] and config.run.workers > 1:
            yield f"{what} and workers={config.run.workers}: use one worker"
        if said[key] and config.personalisation.personalize != "none":
            yield f"{what} and personalize={config.personalisation.personalize!r}: use one of them"


def _of_parts(config: RaConfig) -> Iterator[str]:
    """Refuse a graph or views of rows that do not train, or that nothing looks at."""
    regeneration = config.regeneration
    for key in PARTS:
        if key not in config.chosen:
            continue
        said, wanted = f"{key}={config[key]!r}", split_origins(config[key])
        yield from _unknown_origins(key, wanted)
        if regeneration.regenerate == "none":
            yield f"{said} but nothing is regenerated; add --regenerate=dr4sr"
        elif regeneration.regenerate == "auto" and "original" not in wanted:
            yield f"{said}: regenerate=auto may choose the originals; let it hold original"
        elif (
            regeneration.regenerate == "auto"
            and "pattern" in regeneration.origins
            and not {*wanted} & {*regeneration.origins} - {"regenerated"}
        ):
            yield (
                f"{said}: regenerate=auto tries patterns, too, and none of them is in "
                f"regenerate_origins={regeneration.regenerate_origins!r} then; let it hold pattern"
            )
        elif not {*wanted} & {*regeneration.origins}:
            yield f"{said}: none of them is in regenerate_origins={regeneration.regenerate_origins!r}"
        if key == "contrast_origins" and config["lmd"] == 0:
            yield f"{said} but nothing is contrasted with lmd=0; drop one"


def _unknown_origins(key: str, given: Sequence[str]) -> Iterator[str]:
    """Name what is no origin."""
    for origin in given:
        if origin not in ORIGINS:
            yield f"{key}: unknown origin {origin!r}{nearest(origin, ORIGINS)}; known: {'+'.join(ORIGINS)}"


def _of_personalisation(config: RaConfig) -> Iterator[str]:
    """Refuse weights of rows that are not there, or of a backbone that takes none."""
    settings = config.personalisation
    yield from _unknown_origins("personalize_origins", settings.weighed_origins)
    if settings.personalize == "none":
        return
    if config.backbone not in BACKBONES:
        yield f"personalize={settings.personalize!r} weighs targets of {_ours(config)}"
    if config.only_regenerates:
        yield f"personalize={settings.personalize!r}: model {REGENERATOR} trains no backbone; leave it out"
    if not {*settings.weighed_origins} & {*config.regeneration.origins} or (
        config.regeneration.regenerate == "none" and "original" not in settings.weighed_origins
    ):
        yield (
            f"personalize={settings.personalize!r}: no row of personalize_origins="
            f"{settings.personalize_origins!r} trains; add --regenerate=dr4sr"
        )
    if config.run.workers > 1:
        yield f"personalize={settings.personalize!r} and workers={config.run.workers}: use one worker"


def uneven_heads(config: RaConfig, width: int, said: str) -> str | None:
    """Say that the heads do not divide the states' width, which RecBole's models tell when they are built."""
    heads = config.raft.ram_heads
    if config.raft.fuses and width % heads:
        return f"ram_heads={heads} does not divide {said}; choose a divisor"
    return None


def _of_validation(config: RaConfig) -> Iterator[str]:
    """Refuse trainings of which no epoch would be validated, and so none be kept."""
    trained = config.backbone not in CLOSED_FORM and not config.only_regenerates
    fuses = config.uses_retrieval and config.raft.fuses
    for name, takes_part in (("epochs", trained), ("raft_epochs", fuses)):
        epochs, step = config.everything[name], config["eval_step"]
        if takes_part and isinstance(epochs, int) and isinstance(step, int) and 0 < epochs < step:
            yield f"eval_step={step} validates none of {name}={epochs} epochs; use {epochs} or less"


def _of_memories(config: RaConfig) -> Iterator[str]:
    """Refuse a module that cannot be built, and memories that no training query may see."""
    if not config.uses_retrieval:
        return
    raft = config.raft
    if config.backbone in BACKBONES:
        name = BACKBONES[config.backbone].width_setting
        width = getattr(config.architecture, name)
        if problem := uneven_heads(config, width, f"{name}={width}"):
            yield problem
    if raft.finetune == "all" and not raft.fuses:
        yield (
            f"finetune='all': fusion={raft.fusion!r} has nothing that a backbone could learn with; use "
            f"fusion={'+'.join(filter(None, ('raserec', raft.mixes)))}"
        )
    if raft.alpha == 0 and raft.fuses == "scaled":
        yield f"fusion={raft.fusion!r} divides by alpha, which is 0; use fusion=raserec"
    if config.bank.memory_data == "regenerated" and config.bank.memory_source == "patterns":
        yield "memory_data='regenerated' has no effect on memory_source='patterns'; leave one of them out"
    if config.bank.memory_scope != "past":
        return
    if raft.mixes == "transitions":
        without = raft.fuses or "knn"
        yield (
            f"memory_scope='past': transitions are counted over all memories (fusion={raft.fusion!r}); "
            f"use fusion={without}"
        )
    unknown = "memory_scope='past' asks when a memory happened, which is unknown of"
    if config.bank.memory_source != "enumerate":
        yield f"{unknown} patterns; use memory_source=enumerate, or memory_scope=any"
    if config.bank.memory_data == "regenerated":
        yield f"{unknown} regenerated rows; use memory_data=original, or memory_scope=any"


def _of_loaders(config: RaConfig) -> Iterator[str]:
    """Refuse what backbones of ours do not read, and what models of RecBole's do not."""
    if config.backbone not in BACKBONES:
        if config.scoring.history_bias != "none":
            yield f"history_bias={config.scoring.history_bias!r} is learned with {_ours(config)}"
        return
    if config["loss_type"] != "CE" and config.chosen.get("label_smoothing", 0) > 0:
        yield (
            f"label_smoothing={config.chosen['label_smoothing']!r} has no effect on "
            f"loss_type={config['loss_type']!r}; leave it out"
        )
    negatives = config.chosen.get("train_neg_sample_args")
    as_ours = {"distribution": "uniform", "sample_num": 1, "dynamic": False}
    for key, is_unused in (
        ("shuffle", config.chosen.get("shuffle", True) is not True),
        ("transform", config.chosen.get("transform") is not None),
        (
            "train_neg_sample_args",
            isinstance(negatives, dict)
            and any(negatives.get(name, value) != value for name, value in as_ours.items()),
        ),
    ):
        if is_unused:
            yield (
                f"{key}={config.chosen[key]!r} has no effect on {config.backbone}: it trains on shuffled "
                "rows, with BPR on one uniform negative a target; leave it out"
            )
