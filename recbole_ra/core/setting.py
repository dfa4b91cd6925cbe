"""Settings declare everything about themselves; values are checked against the declaration."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from recbole_ra.core.errors import SettingsError

T = TypeVar("T")

KIND_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting.

    Attributes
    ----------
    help : str
        One line for ``--help``.
    low, high : float, optional
        Bounds, both allowed.
    choices : sequence of str, optional
    shapes : frozenset of str
        Stages whose result changes with it (``settings/stages.py``); none if it says where files lie or
        how a run is executed.
    while_training : bool
        Whether a trial may go on with another value (population based training).
    expert : bool
        Shown by ``--help=all`` only.
    path : bool
        Whether it may name a file or folder; what that holds counts then, not its name.
    fixed : str
        Why a sweep may not search it, or empty.
    name : str
    kind : type, optional
        ``int``, ``float``, ``bool`` or ``str``; None where RecBole checks the value.
    optional : bool
        Whether None is allowed.
    default : Any
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: Sequence[str] | None = None
    shapes: frozenset[str] = frozenset()
    while_training: bool = False
    expert: bool = False
    path: bool = False
    fixed: str = ""
    name: str = ""
    kind: type | None = None
    optional: bool = False
    default: Any = None

    @property
    def is_text(self) -> bool:
        """Whether the command line's words are the value, not YAML."""
        return self.kind is str and self.choices is None

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        if self.kind is None or (value is None and self.optional):
            return None
        if self.optional and value == "":
            return f"{self.name} is empty; write --{self.name}=VALUE, or leave it out"
        accepted: Any = (int, float) if self.kind is float else self.kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and self.kind is not bool):
            return f"{self.name}={value!r} must be {KIND_NAMES[self.kind]}"
        if self.choices and value not in self.choices:
            return f"{self.name}={value!r} must be one of {', '.join(self.choices)}"
        low, high = self.low, self.high
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            limits = (
                f">= {low}" if high is None else f"<= {high}" if low is None else f"between {low} and {high}"
            )
            return f"{self.name}={value!r} must be {limits}"
        if self.kind is float and abs(value) > sys.float_info.max:
            return f"{self.name}={value!r} must be finite"
        if self.kind is int and abs(value) >= 2**63:
            return f"{self.name}={value!r} must be below 2^63"
        return None


def setting(default: Any, help: str, *, shapes: str = "", **about: Any) -> Any:
    """Declare a field of a settings class.

    Parameters
    ----------
    default : Any
    help : str
    shapes : str
        Names of stages, with spaces between.
    **about
        Everything else that a :class:`Setting` says.
    """
    said = Setting(help, shapes=frozenset(shapes.split()), default=default, **about)
    return dataclasses.field(default=default, metadata={"setting": said})


def inherited(cls: Any, name: str, default: Any) -> Any:
    """Declare a field as a base class does, with another default."""
    (said,) = (field.metadata["setting"] for field in dataclasses.fields(cls) if field.name == name)
    about = dataclasses.replace(said, default=default)
    return dataclasses.field(default=default, metadata={"setting": about})


def declared(cls: Any) -> dict[str, Setting]:
    """Return the settings that a class declares, by name."""
    annotations = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        annotation = annotations[field.name]
        allowed = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
        found[field.name] = dataclasses.replace(
            field.metadata["setting"],
            name=field.name,
            kind=next(kind for kind in allowed if kind is not type(None)),
            optional=type(None) in allowed,
        )
    return found


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
    values: dict[str, Any] = {}
    for name, about in declared(cls).items():
        if name not in mapping:
            continue
        value = mapping[name]
        problem = about.problem(value)
        if problem is None:
            values[name] = float(value) if about.kind is float and not about.optional else value
        else:
            problems.append(problem)
    return cls(**values)


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one :class:`SettingsError` for all problems, or nothing if there are none."""
    if problems:
        raise SettingsError("; ".join(problems))
