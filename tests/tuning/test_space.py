"""Reading a search space from a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_ra.core.errors import SettingsError
from recbole_ra.settings.files import props_root
from recbole_ra.tuning.space import Parameter, Space, read_space


def written(folder: Path, text: str, name: str = "space.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def refusal(path: Path) -> str:
    """What is said of a file, without its name."""
    with pytest.raises(SettingsError) as caught:
        read_space(path)
    start = f"{path}: "
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(start)


def test_a_yaml_file_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "alpha: {uniform: [0, 1]}\n"
        "memory_source: {choice: [enumerate, both]}\n"
        "raft_learning_rate: {loguniform: [1e-4, 1e-2]}\n"
        "ram_dropout: {quniform: [0.0, 0.8, 0.1]}\n"
        "seed: {randint: [0, 100]}\n"
        "beta: {grid: [0, 0.5, 1]}\n"
        "n_neighbors: {grid: [5, 10]}\n",
    )
    space = read_space(path)
    assert space == Space(
        path,
        (
            Parameter("alpha", "uniform", (), 0.0, 1.0),
            Parameter("memory_source", "choice", ("enumerate", "both")),
            Parameter("raft_learning_rate", "loguniform", (), 1e-4, 1e-2),
            Parameter("ram_dropout", "quniform", (), 0.0, 0.8, 0.1),
            Parameter("seed", "randint", (), 0, 100),
            Parameter("beta", "grid", (0, 0.5, 1)),
            Parameter("n_neighbors", "grid", (5, 10)),
        ),
    )
    assert space.names[:2] == ("alpha", "memory_source")
    assert space.n_grid == 6
    low = space.parameters[0].low
    assert (low, type(low)) == (0, float)


def test_without_a_grid_there_is_one_combination(tmp_path: Path) -> None:
    assert read_space(written(tmp_path, "alpha: {uniform: [0, 1]}\n")).n_grid == 1


def test_recboles_format_is_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "# RecBole's own example\n"
        "\n"
        "learning_rate loguniform -8,0\n"
        "train_batch_size  choice [64, 128]\n"
        "dropout quniform 0, 0.8, 0.1\n"
        "x\tuniform 0,1\n"
        "mlp_hidden_size choice ['[64, 64]','[128]']\n"
        "loss_type choice ['CE','BPR']\n",
        "hyper.test",
    )
    learning_rate, *others = read_space(path).parameters
    assert (learning_rate.kind, learning_rate.high) == ("loguniform", 1.0)
    assert learning_rate.low == pytest.approx(0.00033546262790251185, rel=1e-15)
    assert others == [
        Parameter("train_batch_size", "choice", (64, 128)),
        Parameter("dropout", "quniform", (), 0.0, 0.8, 0.1),
        Parameter("x", "uniform", (), 0.0, 1.0),
        Parameter("mlp_hidden_size", "choice", ([64, 64], [128])),
        Parameter("loss_type", "choice", ("CE", "BPR")),
    ]


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"__import__('os').mkdir('{mark}')"
    assert "must be a list" in refusal(written(tmp_path, f"alpha choice {text}\n", "hyper.test"))
    read_space(written(tmp_path, f'alpha choice ["{text}"]\n', "hyper.test"))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("0.5", "alpha: 0.5 must be one kind with its list, such as {uniform: [0, 1]}"),
        ("{uniform: [0, 1], grid: [1]}", "must be one kind with its list"),
        (
            "{unifrom: [0, 1]}",
            "alpha: kind 'unifrom' is not one of choice, grid, uniform, loguniform, quniform, randint; "
            "did you mean 'uniform'?",
        ),
        ("{1: [0, 1]}", "alpha: kind 1 is not one of"),
        ("{uniform: [0.1]}", "alpha: uniform [0.1] must be [low, high]"),
        ("{uniform: 0.1}", "alpha: uniform 0.1 must be [low, high]"),
        ("{randint: [1, 2, 3]}", "alpha: randint [1, 2, 3] must be [low, high]"),
        ("{quniform: [0, 1]}", "alpha: quniform [0, 1] must be [low, high, step]"),
        ("{uniform: [a, 1]}", "alpha: uniform ['a', 1]: 'a' must be a finite number"),
        ("{uniform: [false, 1]}", "alpha: uniform [False, 1]: False must be a finite number"),
        ("{uniform: [0, .inf]}", "alpha: uniform [0, inf]: inf must be a finite number"),
        ("{uniform: [.nan, 1]}", "alpha: uniform [nan, 1]: nan must be a finite number"),
        (f"{{uniform: [0, 1{'0' * 400}]}}", "must be a finite number"),
        ("{uniform: [1, 1]}", "alpha: uniform [1, 1] is empty; low must be below high"),
        ("{loguniform: [0, 1]}", "alpha: loguniform [0, 1]: low must be above 0"),
        ("{quniform: [0, 1, 0]}", "quniform [0, 1, 0]: step must be above 0, and low and high its multiples"),
        ("{quniform: [0, 1, -1]}", "step must be above 0"),
        ("{quniform: [0, 1, 2]}", "low and high its multiples"),
        ("{quniform: [0.05, 1, 0.1]}", "low and high its multiples"),
        ("{quniform: [0, 1.0e-12, 1]}", "low and high its multiples"),
        ("{randint: [0, 1.5]}", "alpha: randint [0, 1.5]: 1.5 must be an integer"),
        ("{randint: [3, 3]}", "alpha: randint [3, 3] is empty; low must be below high"),
        ("{randint: [true, 3]}", "True must be a finite number"),
        ("{choice: []}", "alpha: choice [] must be a list of one value or more, such as [16, 32]"),
        ("{grid: 5}", "alpha: grid 5 must be a list of one value or more, such as [16, 32]"),
        ("{choice: [5, 10, 5.0]}", "alpha: choice [5, 10, 5.0] lists 5.0 twice; keep one"),
        ("{choice: [[1], [1]]}", "lists [1] twice"),
    ],
)
def test_a_wrong_entry_is_named(entry: str, words: str, tmp_path: Path) -> None:
    said = refusal(written(tmp_path, f"alpha: {entry}\n"))
    assert said.startswith("alpha: ")
    assert words in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "alpha uniform",
            "line 3: alpha: 'uniform' must be a kind and its values, such as 'uniform 0.1,0.9'",
        ),
        ("alpha", "line 3: alpha: '' must be a kind and its values"),
        (
            "alpha grid [1]",
            "line 3: alpha: kind 'grid' is not one of choice, uniform, loguniform, quniform",
        ),
        ("alpha uniformm 0,1", "line 3: alpha: kind 'uniformm' is not one of .*; did you mean 'uniform'?"),
        ("alpha uniform 0;1", "line 3: alpha: uniform ['0;1'] must be [low, high]"),
        ("alpha uniform 1,0", "line 3: alpha: uniform [1, 0] is empty"),
        ("alpha uniform [0,1]", "line 3: alpha: uniform ['[0', '1]']: '[0' must be a finite number"),
        ("alpha loguniform 0,-8", "line 3: alpha: loguniform [0, -8] is empty"),
        (
            "alpha loguniform 0,1000",
            "line 3: alpha: loguniform [0, 1000]: bounds are natural logarithms, between -700 and 700",
        ),
        ("alpha choice 5", "line 3: alpha: choice 5 must be a list of one value or more"),
        ("beta uniform 0,0.5", "line 3: beta: stands in line 2 already; keep one"),
    ],
)
def test_a_wrong_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    said = refusal(written(tmp_path, f"# space\nbeta uniform 0,1\n{line}\n", "hyper.test"))
    first, _, last = words.partition(".*")
    assert said.startswith(first)
    assert last in said


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    said = refusal(written(tmp_path, "alpha: 5\nbeta: {uniform: [1, 0]}\ngamma: {choice: []}\n"))
    assert [part.split(":")[0] for part in said.split("; ") if ": " in part] == ["alpha", "beta", "gamma"]
    said = refusal(written(tmp_path, "a uniform 1,0\nb uniform 0,1\nc choice 3\n", "hyper.test"))
    assert "line 1: a" in said
    assert "line 3: c" in said
    assert "b:" not in said


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("space.yaml", "- alpha\n", "holds no settings"),
        ("space.yml", "", "names no parameter; write for example 'alpha: {uniform: [0.1, 0.9]}'"),
        ("hyper.test", "# none\n", "names no parameter; write for example 'alpha uniform 0.1,0.9'"),
    ],
)
def test_a_file_without_parameters_is_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    assert refusal(written(tmp_path, text, name)).startswith(words)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hyper.test").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refusal(tmp_path / "hyper.test")


@pytest.mark.parametrize("name", ["raft", "raft.yaml", "props/tune/raft", "./props/tune/raft.yaml"])
def test_a_shipped_space_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raft").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_space(Path(name)).path == props_root() / "tune" / "raft.yaml"


def test_an_own_file_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "beta: {uniform: [0, 1]}\n", "raft.yaml")
    assert read_space(Path("raft.yaml")).names == ("beta",)


def test_a_missing_file_lists_what_is_shipped(tmp_path: Path) -> None:
    said = refusal(Path("rafft"))
    assert said.startswith("no file or shipped space (DuoRec, SASRec, backbone, ")
    assert said.endswith("did you mean 'raft'?")
    assert refusal(tmp_path / "raft.yaml").startswith("no file or shipped space")
    assert refusal(tmp_path).startswith("no file or shipped space")


@pytest.mark.parametrize(
    ("parameter", "extremes"),
    [
        (Parameter("a", "choice", (1, "b", None)), (1, "b", None)),
        (Parameter("a", "grid", (1, 2)), (1, 2)),
        (Parameter("a", "uniform", (), 0.0, 2.0), (0.0, 2.0)),
        (Parameter("a", "quniform", (), 0.0, 0.8, 0.1), (0.0, 0.8)),
        (Parameter("a", "randint", (), 0, 100), (0, 99)),
    ],
)
def test_extremes(parameter: Parameter, extremes: tuple[Any, ...]) -> None:
    assert parameter.extremes() == extremes
    assert [type(end) for end in parameter.extremes()] == [type(end) for end in extremes]
    assert all(parameter.allows(end) for end in extremes)


@pytest.mark.parametrize(
    ("parameter", "inside", "outside"),
    [
        (Parameter("a", "choice", (1, "b", None)), [1, 1.0, "b", None], [True, 2, "", [1]]),
        (Parameter("a", "uniform", (), 0.0, 2.0), [0, 2, 0.3], [-0.1, 2.1, True, None, "1", math.nan]),
        (Parameter("a", "loguniform", (), 1e-4, 1.0), [1e-4, 1], [0, 2]),
        (Parameter("a", "quniform", (), 0.0, 0.8, 0.1), [0, 0.3, 0.1 * 3, 0.8], [0.25, 0.9]),
        (Parameter("a", "randint", (), 0, 3), [0, 2], [3, -1, 1.0, True, None]),
    ],
)
def test_what_a_parameter_allows(parameter: Parameter, inside: list[Any], outside: list[Any]) -> None:
    assert all(parameter.allows(value) for value in inside)
    assert not any(parameter.allows(value) for value in outside)


numbers = st.floats(-1e6, 1e6)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), numbers, st.from_regex(r"[a-zA-Z_]{0,8}", fullmatch=True)
)
ranges = st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1])
multiples = st.tuples(st.integers(-50, 50), st.integers(1, 50), st.sampled_from([0.1, 0.25, 1e-3, 2.0, 7.3]))
lists = st.lists(scalars, min_size=1, max_size=5, unique_by=lambda value: (type(value) is bool, value))
entries = st.one_of(
    st.builds(lambda kind, values: (kind, values), st.sampled_from(["choice", "grid"]), lists),
    st.builds(lambda pair: ("uniform", list(pair)), ranges),
    st.builds(
        lambda pair: ("loguniform", [10 ** (bound / 1e5) for bound in pair]),
        ranges.filter(lambda pair: pair[1] - pair[0] > 1e-6),
    ),
    st.builds(
        lambda pair: ("randint", [pair[0], pair[0] + pair[1]]), st.tuples(st.integers(), st.integers(1))
    ),
    st.builds(lambda m: ("quniform", [m[0] * m[2], (m[0] + m[1]) * m[2], m[2]]), multiples),
)


@given(st.dictionaries(st.from_regex(r"[a-zA-Z][a-zA-Z_0-9]{0,10}", fullmatch=True), entries, min_size=1))
def test_what_is_written_as_yaml_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(
        yaml.safe_dump({name: {kind: values} for name, (kind, values) in content.items()}, sort_keys=False)
    )
    space = read_space(path)
    assert space.names == tuple(content)
    for parameter, (kind, values) in zip(space.parameters, content.values(), strict=True):
        assert parameter.kind == kind
        if kind in ("choice", "grid"):
            assert list(parameter.values) == values
        else:
            bounds = [parameter.low, parameter.high, *([parameter.step] if kind == "quniform" else [])]
            assert bounds == values
        assert all(parameter.allows(end) for end in parameter.extremes())


def test_values_that_left_the_space_are_clipped() -> None:
    kinds = {
        "alpha": Parameter("alpha", "uniform", low=0.1, high=0.9),
        "beta": Parameter("beta", "quniform", low=0.0, high=1.0, step=0.25),
        "n_neighbors": Parameter("n_neighbors", "randint", low=1, high=50),
        "source": Parameter("source", "choice", values=("a", "b")),
    }
    space = Space(Path("x.yaml"), tuple(kinds.values()))
    back = space.clip({"alpha": 1.08, "beta": 0.9, "n_neighbors": 58.8, "source": "b"})
    assert back == {"alpha": 0.9, "beta": 1.0, "n_neighbors": 49, "source": "b"}
    assert all(kinds[name].allows(value) for name, value in back.items())
