"""Settings as frozen dataclasses, read from a mapping once and checked as a whole."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
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
