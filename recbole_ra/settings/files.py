"""Settings as text: YAML files, values on a command line, the files that are shipped, a set's manifest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import yaml

from recbole_ra.core.errors import SettingsError
from recbole_ra.core.store import MANIFEST

SEQUENCES_FILE = "sequences.tsv"
"""The rows of a regenerated set, in its folder."""


def props_root() -> Path:
    """Return the folder of default files: inside an installed package, else beside it in a clone."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "props"
    return inside if inside.is_dir() else package.parent / "props"


class YamlLoader(yaml.SafeLoader):
    """Safe YAML that reads ``1e-3`` as a number, as RecBole's loader does, and refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raises ``ConstructorError`` for a key that stands in it already."""
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key '{key.value}' is given twice; keep one", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+)$"
    ),
    list("-+0123456789."),
)


DAMAGED = (yaml.YAMLError, ValueError, AttributeError, LookupError, TypeError)
"""What PyYAML raises for text that is none of its own: 2020-13-45, ``!!timestamp x``, ``!!map [1]``."""


def parse_value(text: str) -> Any:
    """Read one command-line value as YAML (never as code); ``None`` and Python literals work too."""
    if text in ("None", "~", ""):
        return None
    try:
        return yaml.load(text.replace("\t", "\\t"), Loader=YamlLoader)
    except DAMAGED:
        return text
    except RecursionError as error:
        raise SettingsError(f"{text[:40]}…: is nested too deep to be read as a value") from error


def read_files(paths: str | Path | Iterable[str | Path]) -> dict[str, Any]:
    """Read files of settings, or one; of a key in several of them the last one counts."""
    found: dict[str, Any] = {}
    for path in (paths,) if isinstance(paths, str | Path) else paths:
        found.update(read_yaml(Path(path)))
    return found


def plain_value(value: Any) -> Any:
    """Turn NumPy's numbers and paths, also in a list, into what a file of settings would hold.

    No deeper: a value of a few lines of YAML may be endless when it is walked.
    """
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, PurePath) else value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Raises
    ------
    SettingsError
        If the file is missing, is not YAML, or is not a mapping of keys to values.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=YamlLoader)
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: no such file; check --config_files") from error
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); check --config_files") from error
    except RecursionError as error:
        raise SettingsError(f"{path}: is nested too deep; write one 'key: value' a line") from error
    except DAMAGED as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        if isinstance(error, yaml.constructor.ConstructorError) and "given twice" in str(error.problem):
            raise SettingsError(f"{path}{line}: {error.problem}") from error
        raise SettingsError(f"{path}{line}: not valid YAML; write one 'key: value' a line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: holds no settings; write one 'key: value' a line")
    for key in content:
        if not isinstance(key, str):
            raise SettingsError(f"{path}: {key!r} names no setting; write one 'key: value' a line")
    return content


def split_plus(kind: str) -> tuple[str, str]:
    """Take off the ``+`` with which ``regenerate`` asks for DR4SR+; a path that ends in it keeps it."""
    is_plus = kind.endswith("+") and not os.path.exists(kind)
    return (kind.removesuffix("+"), "+") if is_plus else (kind, "")


def sequences_file(made: Path) -> Path:
    """Return the file of rows of a regenerated set, given as its folder or that file."""
    return made / SEQUENCES_FILE if made.is_dir() else made


def read_manifest(made: Path) -> dict[str, Any]:
    """Return what a regenerated set, given as its folder or a file in it, says of itself.

    Nothing, where no manifest lies there or it is damaged: rows may come from elsewhere.
    """
    file = (made if made.is_dir() else made.parent) / MANIFEST
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None  # no pipe, no device
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def part_of(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a mapping in a manifest; nothing, where it holds none of that name."""
    found = manifest.get(name)
    return found if isinstance(found, dict) else {}
