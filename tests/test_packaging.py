"""The frame keeps its promises: layers, lean imports, dependencies pinned and declared."""

from __future__ import annotations

import ast
import configparser
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "recbole_ra"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each layer imports only from itself and from those before it.
LAYERS = (
    "core",
    "data",
    "prepare",
    "models",
    "settings",
    "report",
    "training",
    "regeneration",
    "retrieval",
    "inference",
    "pipeline",
    "tuning",
    "serving",
    "cli",
)
TOP = len(LAYERS)
"""Rank of the package's own __init__ and __main__, which may import from every layer."""

# Where a library is met: files, or a whole folder.
ONLY_IN = {
    "recbole": {
        "data/dataset.py",
        "data/training_part.py",
        "models/recbole_models.py",
        "models/recommenders.py",
        "settings/config.py",
        "settings/recbole.py",
        "training/evaluation.py",
        "training/loaders.py",
        "training/patience.py",
        "training/setup.py",
        "training/trainer.py",
        "regeneration/trainer.py",
        "retrieval/bank.py",
    },
    "faiss": {"retrieval/index.py"},
    "ray": {"tuning"},
    "optuna": {"tuning"},
    "fastapi": {"serving"},
    "pydantic": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "onnxruntime": {"inference/encoder.py"},
}
DISTRIBUTIONS = {"yaml": "pyyaml", "faiss": "faiss-cpu"}

EXTRAS = ("requirements-tune.txt", "requirements-serve.txt", "requirements-onnx.txt")

PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[a-z,]+\])?==(?P<version>[0-9][\w.]*)  # \S.*")


def layer_of(path: Path) -> str:
    """First folder below the package, or the name of a file that lies in the package itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def rank(layer: str) -> int:
    return LAYERS.index(layer) if layer in LAYERS else TOP


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a file imports, inside functions too."""
    package = ["recbole_ra", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *([node.module] if node.module else []), alias.name])


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(REPO)}:{line}"


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    return parser


def entries(section: str, key: str) -> list[str]:
    lines = (line.strip() for line in setup_cfg()[section][key].splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    lines = (REPO / name).read_text().splitlines()
    matches = [PINNED.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert None not in matches, f"{name}: a line is not 'name==version  # what for'"
    names = [canonicalize_name(match["name"]) for match in matches if match]
    assert len(names) == len(set(names)), f"{name}: a package is pinned twice"
    return dict(zip(names, (match["version"] for match in matches if match), strict=True))


def test_every_file_belongs_to_a_known_layer() -> None:
    assert {layer_of(path) for path in FILES} <= {*LAYERS, "__init__", "__main__"}


def test_no_layer_imports_from_a_later_one() -> None:
    upward = []
    for path in FILES:
        for line, name in imports(path):
            parts = name.split(".")
            # Any layer may ask for the version, which lives in the package's __init__.
            if parts[0] != "recbole_ra" or parts[1:] == ["__version__"]:
                continue
            target = parts[1] if len(parts) > 1 else "__init__"
            if rank(target) > rank(layer_of(path)):
                upward.append(f"{where(path, line)} imports {name}")
    assert upward == []


@pytest.mark.parametrize(("module", "places"), ONLY_IN.items())
def test_a_library_is_met_in_few_places(module: str, places: set[str]) -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for _, name in imports(path)
        if name.split(".")[0] == module
    }
    assert {name if name in places else name.split("/")[0] for name in found} == places


def test_no_string_names_a_device() -> None:
    found = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        # A string that is a statement of its own is a docstring and may say what it likes.
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found += [
            where(path, node.lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and "cuda" in node.value
            and id(node) not in prose
        ]
    assert found == []


@pytest.mark.parametrize("module", ["recbole_ra", "recbole_ra.cli"])
def test_import_loads_no_extra_and_not_recboles_quick_start(module: str) -> None:
    extras = {"ray", "fastapi", "onnx", "recbole.quick_start"}
    code = f"import sys, {module}; print(*{extras} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_requirements_are_exact_and_name_no_index() -> None:
    for name in ("requirements.txt", *EXTRAS):
        assert pins(name)
        assert "://" not in (REPO / name).read_text()


def test_requirements_meet_what_the_package_declares() -> None:
    pinned = dict(itertools.chain(*(pins(name).items() for name in ("requirements.txt", *EXTRAS))))
    declared = entries("options", "install_requires")
    for extra in ("tune", "serve", "onnx", "test", "dev"):
        declared += [line for line in entries("options.extras_require", extra)]
    unmet = []
    for line in declared:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        if requirement.name != "recbole" and not (version and requirement.specifier.contains(version)):
            unmet.append(line)
    assert unmet == []


def test_makefile_installs_the_declared_recbole_and_requirements_leave_it_out() -> None:
    (declared,) = (line for line in entries("options", "install_requires") if line.startswith("recbole"))
    assert f"RECBOLE := {declared}\n" in (REPO / "Makefile").read_text()
    # Installed with its dependencies it would bring a Ray that does not start.
    assert not {"recbole", "ray"} & set(pins("requirements.txt"))


def test_everything_that_the_package_imports_is_declared() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in entries("options", "install_requires")}
    declared |= set(pins("requirements-tune.txt"))
    for extra in ("serve", "onnx"):
        declared |= {
            canonicalize_name(Requirement(line).name) for line in entries("options.extras_require", extra)
        }
    undeclared = {
        f"{where(path, line)} imports {name}"
        for path in FILES
        for line, name in imports(path)
        for top in [name.split(".")[0]]
        if top not in sys.stdlib_module_names
        and top != "recbole_ra"
        and canonicalize_name(DISTRIBUTIONS.get(top, top)) not in declared
    }
    assert undeclared == set()


def test_setup_cfg_lists_every_package() -> None:
    folders = {path.parent for path in FILES}
    names = {".".join(folder.relative_to(REPO).parts) for folder in folders}
    assert set(entries("options", "packages")) == {*names, "recbole_ra.props"}


def test_every_settings_file_is_package_data() -> None:
    patterns = [
        pattern.strip() for pattern in setup_cfg()["options.package_data"]["recbole_ra.props"].split(",")
    ]
    packed = {path for pattern in patterns for path in (REPO / "props").glob(pattern)}
    assert packed
    assert packed == {path for path in (REPO / "props").rglob("*") if path.is_file()}


def test_the_page_is_package_data() -> None:
    (pattern,) = setup_cfg()["options.package_data"]["recbole_ra.serving"].split(",")
    names = {path.name for path in (PACKAGE / "serving").glob(pattern)}
    assert names == {"index.html", "page.css", "page.js"}
