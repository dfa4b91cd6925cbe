"""Plain files of a run: scores follow from them, ONNX gives torch's states, and mistakes leave nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

import recbole_ra
from recbole_ra.cli import main
from recbole_ra.core.errors import RecboleRaError, RequestError
from recbole_ra.inference import encoder as encoding
from recbole_ra.inference import export as exporting
from recbole_ra.models.recbole_models import RecBoleRecommender
from recbole_ra.models.registry import BACKBONES

Trained = Callable[[str], Any]
Exported = Callable[..., tuple[Any, Path, dict[str, Any]]]
HISTORIES = [["i1"], ["i3", "i4", "i5"], ["i9", "i2", "i9", "i4", "i7", "i1", "i3", "i8"]]


def needs_onnx() -> None:
    for name in encoding.ONNX_PACKAGES:
        pytest.importorskip(name, reason="make setup-onnx installs it")


@pytest.fixture
def exported(trained: Trained, tmp_path: Path) -> Exported:
    """Export a trained model; returns the recommender, the folder and its README."""

    def of(name: str, **options: Any) -> tuple[Any, Path, dict[str, Any]]:
        recommender = trained(name).load()
        folder = recommender.export(tmp_path / "exported", **options)
        return recommender, folder, json.loads((folder / "README.json").read_text())

    return of


def ids_by_token(folder: Path) -> dict[str, int]:
    with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
        return {row["token"]: int(row["id"]) for row in csv.DictReader(file)}


def padded(histories: list[list[str]], ids: dict[str, int], longest: int) -> tuple[Any, Any]:
    """Right-padded histories and their lengths, as README.json says that the encoder takes them."""
    latest = [[ids[token] for token in history][-longest:] for history in histories]
    length = np.array([len(row) for row in latest])
    history = np.zeros((len(latest), length.max()), np.int64)
    for row, items in enumerate(latest):
        history[row, : len(items)] = items
    return history, length


def states(recommender: Any, history: Any, length: Any) -> Any:
    model = recommender.scorer.model
    backbone = (model if recommender.memory is None else model.base).backbone
    with torch.no_grad():
        return backbone.represent(torch.from_numpy(history), torch.from_numpy(length)).numpy()


def scores(recommender: Any, histories: list[list[str]] = HISTORIES) -> Any:
    """By the recommender itself, shape [histories, items]."""
    asked = recommender.requests(histories=histories)
    return recommender.scorer.scores(recommender.scorer.interaction(asked)).numpy()


@pytest.mark.parametrize("model", ["SASRec", "SASRec bias", "DuoRec"])
def test_scores_follow_from_plain_files(model: str, exported: Exported) -> None:
    recommender, folder, readme = exported(model)
    vectors = np.load(folder / "items.npy")
    history, length = padded(HISTORIES, ids_by_token(folder), readme["history"]["max_length"])
    found = states(recommender, history, length) @ vectors.T
    if "history_bias" in readme:
        for row, items in enumerate(history):
            found[row, np.unique(items[items > 0])] += readme["history_bias"]["constant"]
        assert readme["history_bias"]["constant"] != 0
    assert ("history_bias" in readme) == (model == "SASRec bias")
    assert found == pytest.approx(scores(recommender), abs=1e-5)


def test_a_history_bias_that_follows_from_the_state(trained: Trained, tmp_path: Path) -> None:
    recommender = trained("SASRec").load()
    backbone = recommender.scorer.model.backbone
    backbone.learn_history_bias("state")
    with torch.no_grad():
        backbone.history_bias.constant.fill_(0.2)
        backbone.history_bias.slope.copy_(torch.linspace(-1, 1, backbone.width))
    folder = recommender.export(tmp_path / "exported")
    about = json.loads((folder / "README.json").read_text())["history_bias"]
    history, length = padded(HISTORIES, ids_by_token(folder), 6)
    state = states(recommender, history, length)
    found, added = state @ np.load(folder / "items.npy").T, state @ np.load(folder / "history_bias.npy")
    for row, items in enumerate(history):
        found[row, np.unique(items[items > 0])] += about["constant"] + added[row]
    assert about["kind"] == "state"
    assert found == pytest.approx(scores(recommender), abs=1e-5)


@pytest.mark.parametrize("model", ["NARM", "RaNARM", "BERT4Rec"])
def test_vectors_of_recboles_models(model: str, exported: Exported) -> None:
    recommender, folder, readme = exported(model)
    scorer, memory = recommender.scorer, recommender.memory
    interaction = scorer.interaction(recommender.requests(histories=HISTORIES))
    own = scorer.model if memory is None else memory.base.model
    states = RecBoleRecommender(own, scorer.n_items, scorer.fields, scorer.probe()).represent(interaction)
    found = states.detach().numpy() @ np.load(folder / "items.npy").T
    constants = "item_bias.npy" in readme["files"]
    assert constants == ("item_bias.npy[i]" in readme["score"]) == (model == "BERT4Rec")
    if constants:
        found += np.load(folder / "item_bias.npy")
    with torch.no_grad():
        expected = own.full_sort_predict(interaction).numpy().reshape(len(HISTORIES), -1)
    assert found[:, 1:] == pytest.approx(expected[:, 1:], abs=1e-4)


def test_readme_tells_every_file_as_it_is(exported: Exported) -> None:
    recommender, folder, readme = exported("RaSASRec past")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"README.json", *readme["files"]}
    for name, about in readme["files"].items():
        if name.endswith(".npy"):
            array = np.load(folder / name, allow_pickle=False)
            assert (list(array.shape), str(array.dtype)) == (about["shape"], about["dtype"])
    assert readme["files"]["items.npy"]["dtype"] == "float32"
    assert readme["memory"]["alpha"] == recommender.memory.weights["alpha"]
    assert readme["memory"]["memories"] == len(recommender.memory.bank)
    assert "times before" in readme["memory"]["may_be_seen"]
    assert readme["versions"]["exported"]["recbole_ra"] == recbole_ra.__version__
    assert str(folder.parent) not in (folder / "README.json").read_text()


def test_tokens_and_titles_as_they_are(trained: Trained, tmp_path: Path) -> None:
    recommender = trained("SASRec").load()
    recommender.items.titles[2] = 'A "quoted", title\nof two lines — ü'
    folder = recommender.export(tmp_path / "exported")
    with (folder / "items.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(1, len(recommender.items)))
    assert [row["token"] for row in rows] == list(recommender.items.names[1:])
    assert [row["title"] or None for row in rows] == list(recommender.items.titles[1:])


@pytest.mark.parametrize("model", ["RaSASRec", "RaSASRec lists"])
def test_the_index_finds_the_same_memories(model: str, exported: Exported) -> None:
    recommender, folder, _ = exported(model)
    bank = recommender.memory.bank
    for name, column in bank.columns.items():
        assert np.array_equal(np.load(folder / "memory" / f"{name}.npy"), column, equal_nan=True)
    history, length = padded(HISTORIES, ids_by_token(folder), 6)
    queries = states(recommender, history, length)
    index = faiss.read_index(str(folder / "memory" / "index.faiss"))
    cosines, rows = index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), 7)
    expected, where = bank.index.search(queries, 7)
    assert cosines == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(rows, where)


def test_an_index_of_torch_is_written_as_one_of_faiss(trained: Trained, tmp_path: Path) -> None:
    recommender = trained("RaSASRec").load()
    bank = recommender.memory.bank
    flat = bank.index
    bank.index = type(flat)("Torch", flat.dimension)
    bank.index.add(bank.keys)
    folder = recommender.export(tmp_path / "exported")
    index = faiss.read_index(str(folder / "memory" / "index.faiss"))
    unit = bank.keys[:5] / np.linalg.norm(bank.keys[:5], axis=1, keepdims=True)
    assert index.search(unit, 3)[0] == pytest.approx(flat.search(bank.keys[:5], 3)[0], abs=1e-6)


def test_scores_of_a_mixture_follow_from_plain_files(exported: Exported) -> None:
    """The formula of README.json, written out, with the exported index."""
    recommender, folder, readme = exported("RaSASRec knn")
    about = readme["memory"]
    vectors, values = np.load(folder / "items.npy"), np.load(folder / "memory" / "values.npy")
    index = faiss.read_index(str(folder / "memory" / "index.faiss"))
    history, length = padded(HISTORIES, ids_by_token(folder), readme["history"]["max_length"])
    state = states(recommender, history, length)
    found = (state @ vectors.T).astype(np.float64)
    cosines, rows = index.search(state / np.linalg.norm(state, axis=1, keepdims=True), about["n_neighbors"])
    for row in range(len(found)):
        weight = np.exp((cosines[row] - cosines[row].max()) / about["temperature"])
        share = np.bincount(values[rows[row]], weight / weight.sum(), minlength=len(vectors))
        p = np.exp(found[row] - np.logaddexp.reduce(found[row]))
        found[row] += np.log1p((1 - about["mixture_weight"]) / about["mixture_weight"] * share / p)
    assert about["mixture_weight"] < 1
    assert found == pytest.approx(scores(recommender), abs=1e-4)


@pytest.mark.parametrize("model", ["SASRec", "DuoRec", "GNN", "RaSASRec", "SASRec bias"])
def test_onnx_gives_the_states_of_torch(model: str, exported: Exported) -> None:
    needs_onnx()
    import onnxruntime

    recommender, folder, readme = exported(model, onnx=True)
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    inputs = [(i.name, i.type, i.shape) for i in session.get_inputs()]
    assert [(name, kind) for name, kind, _ in inputs] == [
        ("history", "tensor(int64)"),
        ("length", "tensor(int64)"),
    ]
    assert all(isinstance(size, str) for _, _, shape in inputs for size in shape)
    rng = np.random.default_rng(3)
    for rows in (1, 2, 9, 130):
        for width in (1, 2, 6):
            length = rng.integers(1, width + 1, rows)
            history = rng.integers(1, 25, (rows, width)) * (np.arange(width) < length[:, None])
            (found,) = session.run(None, {"history": history, "length": length})
            assert found.dtype == np.float32
            assert found == pytest.approx(states(recommender, history, length), abs=1e-5)
    assert readme["encoder"]["checked"]["largest_difference"] <= 1e-5
    assert readme["encoder"]["checked"]["lengths"] == [1, 6]


@pytest.mark.slow
@pytest.mark.parametrize("model", BACKBONES)
def test_onnx_of_every_backbone(model: str) -> None:
    needs_onnx()
    import onnxruntime

    kind = BACKBONES[model]
    encoder = encoding._Encoder(kind(30, 12, kind.Settings()))
    content, _ = encoding._as_onnx(encoder, max_length=12)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    for rows, width in ((1, 1), (7, 2), (50, 12)):
        length = rng.integers(1, width + 1, rows)
        history = rng.integers(1, 30, (rows, width)) * (np.arange(width) < length[:, None])
        (found,) = session.run(None, {"history": history, "length": length})
        with torch.no_grad():
            expected = encoder(torch.from_numpy(history), torch.from_numpy(length)).numpy()
        assert found == pytest.approx(expected, abs=1e-5)


def test_onnx_tells_nothing_of_the_machine(exported: Exported) -> None:
    needs_onnx()
    _, folder, _ = exported("SASRec", onnx=True)
    content = (folder / "encoder.onnx").read_bytes()
    for trace in (b"site-packages", b".py", os.fsencode(Path(exporting.__file__).parents[2])):
        assert trace not in content


def test_onnx_where_histories_are_of_one_item(trained: Trained) -> None:
    needs_onnx()
    recommender = trained("SASRec").load()
    encoder = encoding._Encoder(recommender.scorer.model.backbone)
    content, _ = encoding._as_onnx(encoder, max_length=1)
    recommender.scorer.max_length = 1
    assert encoding._difference(encoder, content, encoding.real_histories(recommender)) <= 1e-5


def test_an_encoder_that_differs_is_refused(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_onnx()
    really = encoding._as_onnx

    def moved(encoder: Any, max_length: int) -> Any:
        made = really(encoder, max_length)
        with torch.no_grad():
            encoder.backbone.encoder.norm.bias[0] += 1e-2
        return made

    monkeypatch.setattr(encoding, "_as_onnx", moved)
    with pytest.raises(RecboleRaError, match="gives other states in onnxruntime than torch"):
        trained("SASRec").load().export(tmp_path / "below" / "exported", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_numbers_are_refused(trained: Trained, tmp_path: Path) -> None:
    needs_onnx()
    recommender = trained("SASRec").load()
    with torch.no_grad():
        recommender.scorer.model.backbone.encoder.norm.bias[0] = torch.nan
    with pytest.raises(RecboleRaError, match="by nan"):
        recommender.export(tmp_path / "exported", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_onnxruntime_does_not_run(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_onnx()
    monkeypatch.setattr(encoding, "_as_onnx", lambda encoder, max_length: (b"no model", 20))
    with pytest.raises(RecboleRaError, match=r"does not run encoder\.onnx") as caught:
        trained("SASRec").load().export(tmp_path / "exported", onnx=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_checked_histories_are_real_and_of_many_lengths(trained: Trained) -> None:
    recommender = trained("SASRec").load()
    rows = encoding.real_histories(recommender)
    assert set(rows.lengths) == set(range(1, 7))
    table = recommender.histories
    for sequence, position, items in zip(rows.sequence, rows.position, rows.items(6), strict=True):
        whole = table.items[table.offsets[sequence] :][:position]
        assert items[items > 0].tolist() == whole[-6:].tolist()
    for user in list(recommender.users.names[1:]):
        recommender.forget(user)
    assert encoding.real_histories(recommender).items().min() >= 0
    assert set(encoding.real_histories(recommender).lengths) == set(range(1, 7))


# Bad input


@pytest.fixture
def said(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs ``export`` on a copy of a run in an empty working directory; code, output and error."""

    def command(model: str, *words: str) -> tuple[int, str, str]:
        run = tmp_path / "run"
        if not run.exists():
            shutil.copytree(trained(model).folder, run)
            (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        code = main(["export", str(run), *words])
        return code, *capsys.readouterr()

    return command


def test_the_command(said: Any, tmp_path: Path) -> None:
    needs_onnx()
    code, out, err = said("RaSASRec", "--out=below/vectors", "--onnx")
    memories = len(recbole_ra.load(tmp_path / "run").memory.bank)
    told = "the encoder as ONNX, which gives torch's states"
    assert (code, out, err) == (0, f"below/vectors: vectors of 25 items, {memories} memories, {told}\n", "")
    assert [path.name for path in Path("below").iterdir()] == ["vectors"]


def test_an_existing_folder_needs_overwrite(said: Any) -> None:
    assert said("SASRec", "--out=vectors")[:2] == (0, "vectors: vectors of 25 items\n")
    before = Path("vectors/README.json").stat().st_ino
    code, _, err = said("SASRec", "--out=vectors")
    assert (code, err.count("\n")) == (2, 1)
    assert "exists already; name another folder, or replace it with --overwrite" in err
    assert Path("vectors/README.json").stat().st_ino == before
    assert said("SASRec", "--out=vectors", "--overwrite")[0] == 0
    assert Path("vectors/README.json").stat().st_ino != before
    Path("vectors/notes.txt").write_text("mine")
    code, _, err = said("SASRec", "--out=vectors", "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "'notes.txt', which no export wrote" in err
    assert Path("vectors/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("out", [".", "..", "/", "../run", "file", "file/below"])
def test_what_is_no_export_is_never_replaced(out: str, said: Any, tmp_path: Path) -> None:
    said("SASRec", "--out=other")
    Path("file").write_text("mine")
    code, _, err = said("SASRec", f"--out={out}", "--overwrite")
    assert (code, err.count("\n")) == (2, 1), err
    assert Path("file").read_text() == "mine"
    assert recbole_ra.load(tmp_path / "run").about.model == "SASRec"


def test_a_model_of_recboles_has_no_onnx(said: Any) -> None:
    needs_onnx()
    code, _, err = said("RaNARM", "--out=below/vectors", "--onnx")
    assert (code, err.count("\n")) == (2, 1)
    assert "RaNARM encodes by a model of RecBole's" in err
    assert list(Path().iterdir()) == []


def test_a_missing_package_names_the_extra(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    really = encoding.find_spec
    monkeypatch.setattr(encoding, "find_spec", lambda name: None if name == "onnxruntime" else really(name))
    code, _, err = said("SASRec", "--out=vectors", "--onnx")
    assert (code, err.count("\n")) == (2, 1)
    assert "onnxruntime" in err
    assert "install the extra onnx (`make setup-onnx`" in err
    assert list(Path().iterdir()) == []
    assert said("SASRec", "--out=vectors")[0] == 0


def test_a_failure_leaves_the_earlier_export(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = trained("SASRec").load()
    folder = recommender.export(tmp_path / "exported")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*arguments: Any) -> None:
        raise OSError("cut off")

    monkeypatch.setattr(exporting, "write_json", fail)
    with pytest.raises(OSError, match="cut off"):
        recommender.export(folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


def test_a_model_without_vectors_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not score by vectors of items"):
        trained("TransRec").load().export(tmp_path / "exported")
