"""Settings as frozen dataclasses, read from a mapping once and checked as a whole."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from recbole_ra.core.errors import SettingsError

T = TypeVar("T")


def setting(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """Declare a field of a settings class: its default, one line for ``--help``, and its bounds."""
    return dataclasses.field(
        default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices}
    )


def check_value(name: str, value: Any, annotation: Any, metadata: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a value, or None."""
    allowed = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if value is None and type(None) in allowed:
        return None
    kind = next(kind for kind in allowed if kind is not type(None))
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        return f"{name}={value!r} must be {_article(kind.__name__)}"
    choices, low, high = (metadata.get(key) for key in ("choices", "low", "high"))
    if choices and value not in choices:
        return f"{name}={value!r} must be one of {', '.join(choices)}"
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = f">= {low}" if high is None else f"<= {high}" if low is None else f"between {low} and {high}"
        return f"{name}={value!r} must be {limits}"
    return None


def _article(name: str) -> str:
    words = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "text"}
    return words.get(name, f"a {name}")


def read(cls: type[T], mapping: Mapping[str, Any], problems: list[str]) -> T:
    """Build a settings object from those keys of a mapping that it declares.

    Parameters
    ----------
    cls : dataclass type
    mapping : mapping
        Merged settings; keys that the class does not declare are left to others.
    problems : list of str
        Every fault found is appended; the object then holds the default instead.
    """
    annotations = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in mapping:
            continue
        value = mapping[field.name]
        problem = check_value(field.name, value, annotations[field.name], field.metadata)
        if problem is None:
            values[field.name] = float(value) if annotations[field.name] is float else value
        else:
            problems.append(problem)
    return cls(**values)


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one :class:`SettingsError` for all problems, or nothing if there are none."""
    if problems:
        raise SettingsError("; ".join(problems))


@dataclass(frozen=True)
class FeedSettings:
    """How training batches are composed (see ``docs/training.md`` for what was measured)."""

    positions_per_visit: int = setting(
        4, "targets of one user that share one pass of a causal encoder; 1 = prefix rows", low=1
    )
    length_groups: int = setting(8, "groups of like length inside a batch", low=1)


@dataclass(frozen=True)
class OptimSettings:
    """Optimisation beyond RecBole's own settings."""

    ema_decay: float = setting(
        0.998,
        "a running average of the weights is validated and kept: its decay a step, 0 = off",
        low=0,
        high=0.99999,
    )


@dataclass(frozen=True)
class BankSettings:
    """The memory bank (docs/method.md, section 4)."""

    memory_source: str = setting("enumerate", "what is remembered", choices=("enumerate", "patterns", "both"))
    index_type: str = setting(
        "IVFFlat",
        "search index; Torch = exact search by matrix products",
        choices=("Flat", "IVFFlat", "HNSW", "Torch"),
    )
    nlist: int = setting(0, "lists of IVFFlat; 0 = about 4 sqrt(memories)", low=0)
    nprobe: int = setting(0, "lists searched; 0 = automatic", low=0)
    memory_scope: str = setting(
        "any", "past: only memories older than the query's target", choices=("any", "past")
    )
    extend_with_validation: bool = setting(True, "add the validation pairs to the bank before the test")
    window: int = setting(5, "positions that a mined pattern spans at most", low=2)
    min_support: int = setting(2, "sequences that must hold a mined pattern", low=1)


@dataclass(frozen=True)
class RaftSettings:
    """Retrieval-augmented fine-tuning (docs/method.md, section 5)."""

    alpha: float = setting(0.5, "weight of the user's own state", low=0, high=1)
    beta: float = setting(
        1.0, "weight of the channel that attends states; 1 - beta attends targets", low=0, high=1
    )
    n_neighbors: int = setting(20, "memories fused into a state (K)", low=1)
    n_heads: int = setting(2, "heads of the cross-attention, and of a Transformer backbone", low=1)
    attn_tau: float = setting(1.0, "softmax temperature of the cross-attention", low=1e-6)
    ram_dropout: float = setting(0.5, "dropout of the retrieval-augmented module", low=0, high=1)
    finetune: str = setting(
        "ram", "what learns: the module alone, or the backbone too", choices=("ram", "all")
    )
    raft_epochs: int = setting(100, "most epochs of fine-tuning", low=1)
    raft_batch_size: int = setting(1024, "targets a step of fine-tuning", low=1)
    raft_learning_rate: float = setting(3e-3, "learning rate of fine-tuning", low=0)
    raft_stopping_step: int = setting(
        5, "epochs without a better validation result before fine-tuning stops", low=0
    )


@dataclass(frozen=True)
class RunSettings:
    """Where a run reads and writes."""

    output_dir: str = setting("runs", "folder that receives one folder a run")
    backbone_checkpoint: str | None = setting(None, "a trained backbone to use instead of training one")
    resume: bool = setting(False, "continue a killed run from its last finished epoch")
    reuse: bool = setting(True, "use the results of stages whose inputs have not changed")


OUR_SETTINGS = (FeedSettings, OptimSettings, BankSettings, RaftSettings, RunSettings)
