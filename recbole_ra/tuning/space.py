"""Search spaces: which settings a sweep varies, and over which values.

A file whose name ends in ``.yaml`` or ``.yml`` has one entry a parameter, a kind with its list::

    alpha: {uniform: [0.1, 0.9]}
    n_neighbors: {choice: [5, 10, 20, 30]}
    raft_learning_rate: {loguniform: [1e-4, 1e-2]}
    ram_dropout: {quniform: [0.0, 0.8, 0.1]}  # low, high, step
    seed: {randint: [0, 100]}  # 100 is excluded, as in NumPy
    beta: {grid: [0, 0.5, 1]}  # every value is tried, with all others

Every other file is read as RecBole's ``hyper.test``, one ``name kind values`` a line. Bounds of its
``loguniform`` are natural logarithms: ``learning_rate loguniform -8,0`` is e^-8 to 1.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_ra.core.errors import SettingsError, nearest
from recbole_ra.settings.config import RaConfig
from recbole_ra.settings.files import parse_value, props_root, read_yaml
from recbole_ra.settings.recbole import PLACE

KINDS = {"choice": 0, "grid": 0, "uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2}
"""How many of low, high and step the list of each kind holds; 0: it holds any values."""
KINDS_OF_RECBOLE = ("choice", "uniform", "loguniform", "quniform")


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched.

    Attributes
    ----------
    name, kind : str
        The setting, and one of :data:`KINDS`.
    values : tuple
        Of ``choice`` and ``grid``: what is chosen from.
    low, high : float or int, optional
        Bounds of a range, floats except those of ``randint``, whose ``high`` is excluded.
    step : float, optional
        Of ``quniform``: values are its multiples, and so are both bounds.
    """

    name: str
    kind: str
    values: tuple[Any, ...] = ()
    low: float | int | None = None
    high: float | int | None = None
    step: float | None = None

    def extremes(self) -> tuple[Any, ...]:
        """Return every choice, or the lowest and the highest value of a range."""
        if self.low is None or self.high is None:
            return self.values
        return (self.low, self.high - 1 if self.kind == "randint" else self.high)

    def allows(self, value: Any) -> bool:
        """Tell whether a search may come to this value."""
        if self.values:
            return any(_same(value, choice) for choice in self.values)
        low, high = self.extremes()
        if not _is_number(value) or not low <= value <= high:
            return False
        if self.kind == "randint":
            return isinstance(value, int)
        return self.step is None or _is_multiple(value, self.step)


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep, and the file that they were read from."""

    path: Path
    parameters: tuple[Parameter, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that are searched."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def n_grid(self) -> int:
        """Combinations of the values of all ``grid`` parameters; 1 if there is none."""
        return math.prod(len(parameter.values) for parameter in self.parameters if parameter.kind == "grid")

    def clip(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Move values that left their ranges or steps to the nearest ones that a search may come to."""
        for parameter in self.parameters:
            if parameter.low is None:
                continue
            value, (low, high) = chosen[parameter.name], parameter.extremes()
            if parameter.step is not None:
                value = parameter.step * round(value / parameter.step)
            if parameter.kind == "randint":
                value = round(value)
            chosen[parameter.name] = min(max(value, low), high)
        return chosen

    def as_settings(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Take the drawn values as settings, multiples of a step without the noise of their last digits."""
        stepped = {parameter.name for parameter in self.parameters if parameter.step is not None}
        return {name: round(chosen[name], 12) if name in stepped else chosen[name] for name in self.names}


def read_space(path: Path) -> Space:
    """Read a search space.

    Parameters
    ----------
    path : Path
        A file, or the name of a shipped space: ``raft`` and ``props/tune/raft.yaml`` are the same.

    Raises
    ------
    SettingsError
        If there is no such file, or for everything that is wrong with it, in one line.
    """
    path = _find(path)
    problems: list[str] = []
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    parameters = tuple((_from_yaml if is_yaml else _from_text)(path, problems))
    if not parameters and not problems:
        example = "alpha: {uniform: [0.1, 0.9]}" if is_yaml else "alpha uniform 0.1,0.9"
        problems.append(f"names no parameter; write for example '{example}'")
    if problems:
        raise SettingsError(f"{path}: {'; '.join(problems)}")
    return Space(path, parameters)


def check_space(space: Space, config: RaConfig, given: Mapping[str, Any]) -> None:
    """Check that the settings accept every choice and both ends of every range, one at a time.

    Parameters
    ----------
    space : Space
    config : RaConfig
        The settings as they stand, without the space.
    given : mapping
        What contradicts a search, such as settings from the command line.

    Raises
    ------
    SettingsError
        For all that is wrong with the space.
    """
    idle = config.without_effect(space.names, space.names)
    problems: list[str] = []
    for parameter in space.parameters:
        name = parameter.name
        about, values = config.about(name), parameter.extremes()
        if name not in config.known:
            # One value shows that a key is unknown; a second would say it again in other words.
            values = values[:1]
        if about.fixed or (name in config.known and not about.shapes):
            problems.append(f"{name} may not be searched: {about.fixed or PLACE}")
        elif name in idle:
            problems.append(f"{name} has no effect with {idle[name]}")
        elif name in given:
            problems.append(f"--{name}={given[name]} is given and {name} is searched; keep one")
        else:
            for value in values:
                try:
                    RaConfig(None, None, (), {**config.chosen, name: value})
                except SettingsError as error:
                    problems.append(_refused(parameter, value, str(error)))
    if problems:
        raise SettingsError(f"{space.path}: {'; '.join(dict.fromkeys(problems))}")


def default_point(space: Space, config: RaConfig) -> dict[str, Any] | None:
    """Take the present values of all searched settings, or None if a search could not come to them."""
    now = config.everything
    point = {name: now.get(name) for name in space.names}
    return point if all(parameter.allows(point[parameter.name]) for parameter in space.parameters) else None


def _find(path: Path) -> Path:
    """Find the file of a path or of a shipped space's name."""
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted((props_root() / "tune").glob("*.yaml"))}
    name = path.as_posix().removeprefix("props/tune/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    raise SettingsError(f"{path}: no file or shipped space ({', '.join(shipped)}){nearest(name, shipped)}")


def _from_yaml(path: Path, problems: list[str]) -> Iterator[Parameter]:
    for name, entry in read_yaml(path).items():
        try:
            if not isinstance(entry, dict) or len(entry) != 1:
                raise SettingsError(f"{entry!r} must be one kind with its list, such as {{uniform: [0, 1]}}")
            yield _parameter(name, *next(iter(entry.items())))
        except SettingsError as error:
            problems.append(f"{name}: {error}")


def _from_text(path: Path, problems: list[str]) -> Iterator[Parameter]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error}); give a text file, or one in YAML") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name, kind, text = (*line.split(maxsplit=2), "", "", "")[:3]
        if not name or name.startswith("#"):
            continue
        try:
            if not text:
                raise SettingsError(f"{kind!r} must be a kind and its values, such as 'uniform 0.1,0.9'")
            if seen.setdefault(name, number) != number:
                raise SettingsError(f"stands in line {seen[name]} already; keep one")
            # Choices are written [64, 128], bounds 0,1.
            given = (
                parse_value(text) if kind == "choice" else [parse_value(x.strip()) for x in text.split(",")]
            )
            if kind == "choice" and isinstance(given, list):
                # As RecBole, which reads text inside the list once more: '[64, 64]' there is a list.
                given = [parse_value(value) if isinstance(value, str) else value for value in given]
            yield _parameter(name, kind, given, recbole=True)
        except SettingsError as error:
            problems.append(f"line {number}: {name}: {error}")


def _parameter(name: str, kind: Any, given: Any, *, recbole: bool = False) -> Parameter:
    """Check one entry, of a YAML file or of RecBole's format."""
    kinds = KINDS_OF_RECBOLE if recbole else tuple(KINDS)
    if kind not in kinds:
        raise SettingsError(f"kind {kind!r} is not one of {', '.join(kinds)}{nearest(str(kind), kinds)}")
    written = f"{kind} {given!r}"
    if not KINDS[kind]:
        if not isinstance(given, list) or not given:
            raise SettingsError(f"{written} must be a list of one value or more, such as [16, 32]")
        for place, value in enumerate(given):
            if any(_same(value, other) for other in given[:place]):
                raise SettingsError(f"{written} lists {value!r} twice; keep one")
        return Parameter(name, kind, tuple(given))
    if not isinstance(given, list) or len(given) != KINDS[kind]:
        raise SettingsError(f"{written} must be [{', '.join(('low', 'high', 'step')[: KINDS[kind]])}]")
    for bound in given:
        if not _is_number(bound):
            raise SettingsError(f"{written}: {bound!r} must be a finite number")
        if kind == "randint" and not isinstance(bound, int):
            raise SettingsError(f"{written}: {bound!r} must be an integer")
    low, high, *steps = given if kind == "randint" else map(float, given)
    if kind == "loguniform" and recbole:
        if max(abs(low), abs(high)) > 700:
            raise SettingsError(f"{written}: bounds are natural logarithms, between -700 and 700")
        low, high = math.exp(low), math.exp(high)
    if low >= high:
        raise SettingsError(f"{written} is empty; low must be below high")
    if kind == "loguniform" and low <= 0:
        raise SettingsError(f"{written}: low must be above 0")
    # Else rounding leads out of the range, and search libraries differ in what they do about it.
    if steps and (steps[0] <= 0 or not all(_is_multiple(bound, *steps) for bound in (low, high))):
        raise SettingsError(f"{written}: step must be above 0, and low and high its multiples")
    return Parameter(name, kind, (), low, high, *steps)


def _refused(parameter: Parameter, value: Any, problem: str) -> str:
    """Return why settings refuse a value, with its name, and a hint where the kind is at fault."""
    if parameter.name not in problem:
        problem = f"{parameter.name}={value!r}: {problem}"
    if parameter.low is not None and problem.endswith("must be an integer"):
        problem += f", but {parameter.kind} draws fractions; use randint or choice"
    return problem


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_multiple(value: float, step: float) -> bool:
    return abs(math.remainder(value, step)) <= 1e-9 * abs(value)


def _same(one: Any, other: Any) -> bool:
    """Equality in which 1 and 1.0 are the same, but true and 1 are not."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
