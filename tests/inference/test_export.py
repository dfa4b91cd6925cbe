"""What other programs read is what the recommender computes with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from recbole_ra.cli import main
from recbole_ra.models.backbone import Backbone
from recbole_ra.retrieval.index import normalise


@pytest.mark.parametrize("model", ["SASRec", "DuoRec", "RaSASRec"])
def test_scores_follow_from_the_files(
    model: str, trained: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    made = trained(model)
    out = tmp_path / "out"
    assert main(["export", str(made.folder), "--onnx", f"--out={out}"]) == 0
    assert "largest difference to torch in onnxruntime" in capsys.readouterr().out
    about = json.loads((out / "README.json").read_text())
    assert {path.name for path in out.iterdir()} == {"README.json", *about["files"]}
    with (out / "items.csv").open() as file:
        ids = {row["item"]: int(row["id"]) for row in csv.DictReader(file)}
    session = onnxruntime.InferenceSession(out / "encoder.onnx")
    history = np.zeros((2, about["longest_history"]), np.int64)
    history[0, :3], history[1, :1] = [ids["i1"], ids["i2"], ids["i3"]], ids["i7"]
    (states,) = session.run(None, {"history": history, "length": np.array([3, 1])})
    scores = states @ np.load(out / "item_vectors.npy").T
    recommender = made.load()
    asked: dict[str, Any] = {"histories": [["i1", "i2", "i3"], ["i7"]], "k": 25, "filter_seen": False}
    if model != "RaSASRec":
        for row in recommender.recommend(**asked).itertuples():
            assert scores[row.user, ids[row.item]] == pytest.approx(row.score, abs=1e-4)
        return
    found = faiss.read_index(str(out / "memory.index")).search(normalise(states), 3)[1]
    keys, values = np.load(out / "memory_keys.npy"), np.load(out / "memory_values.npy")
    best = np.argsort(-(normalise(keys) @ normalise(states).T), axis=0, kind="stable")[:3].T
    assert values[found[0]].tolist() == values[best[0]].tolist()
    told = recommender.explain(["i1", "i2", "i3"]).memories["item"].head(3)
    assert [ids[item] for item in told] == values[found[0]].tolist()
    assert "u1" not in (out / "items.csv").read_text()


def test_what_cannot_be_exported_is_one_line(
    trained: Callable[[str], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusal(*words: str) -> str:
        assert main(["export", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    out = tmp_path / "out"
    run = str(trained("RaGRU4Rec").folder)
    assert "RaGRU4Rec is RecBole's own, which --onnx does not take" in refusal(run, "--onnx", f"--out={out}")
    assert main(["export", run, f"--out={out}"]) == 0
    capsys.readouterr()
    assert f"{out}: exists" in refusal(run, f"--out={out}")
    assert "GRU4Rec does not tell a state" in refusal(
        str(trained("GRU4Rec").folder), f"--out={tmp_path / 'other'}"
    )
    monkeypatch.setattr("recbole_ra.inference.export.TOLERANCE", -1.0)
    words = (str(trained("SASRec").folder), "--onnx", f"--out={tmp_path / 'other'}")
    assert "nothing was written" in refusal(*words)
    assert not (tmp_path / "other").exists()


def test_histories_are_as_the_encoder_takes_them() -> None:
    from recbole_ra.inference.export import _histories

    backbone = Backbone(n_items=9, max_length=5, width=4)
    history, length = _histories(backbone, 20)
    assert history.shape == (20, 5)
    assert ((history > 0).sum(1) == length).all()
    assert (int(length.min()), int(length.max()), int(history.max())) == (1, 5, 8)
