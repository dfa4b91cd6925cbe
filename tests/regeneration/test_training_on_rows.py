"""How regenerated rows train: their weights, curriculum and places, and graphs and views of some of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

import recbole_ra
from recbole_ra import run
from recbole_ra.core.errors import DataError, SettingsError
from walks import silent

pytestmark = pytest.mark.usefixtures("undrawn")


def test_weights_of_rows_train_another_backbone(regenerating: dict[str, Any]) -> None:
    plain = run("SASRec", **regenerating, say=silent)
    weighed = run("SASRec", **regenerating, row_weight="support", say=silent)
    assert weighed.reused == ["decoded"]
    assert weighed.test != plain.test


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_weight": "support", "regenerate": "none"}, "row_weight='support' but nothing is regenerated"),
        (
            {"row_weight": "both", "personalize": "bilevel"},
            "row_weight='both' and personalize='bilevel': use one of them",
        ),
        ({"row_weight": "both", "workers": 2}, "row_weight='both' and workers=2: use one worker"),
        (
            {"position_offset": "random", "positions": "start", "regenerate": "none"},
            "position_offset='random' but nothing is regenerated",
        ),
        ({"position_offset": "random"}, "position_offset='random': positions=end counts from the last item"),
        (
            {"position_offset": "random", "model": "GRU4Rec"},
            "position_offset='random': GRU4Rec counts no positions",
        ),
        ({"promoter_agrees": True, "diversity": False}, "promoter_agrees=True asks the promoter"),
        ({"regenerate_epochs": 2, "workers": 2}, "regenerate_epochs=2 and workers=2: use one worker"),
        ({"min_multiplicity": 2, "regenerate": "patterns"}, "min_multiplicity=2 counts how often a row was"),
    ],
)
def test_settings_of_rows_that_do_not_go_together(
    change: dict[str, Any], message: str, regenerating: dict[str, Any]
) -> None:
    settings = {**regenerating, **change}
    model = settings.pop("model", "SASRec")
    if model == "GRU4Rec":
        settings = {key: value for key, value in settings.items() if key not in ("n_layers", "inner_size")}
    with pytest.raises(SettingsError, match=message):
        run(model, **settings, say=silent)


@pytest.mark.parametrize(("model", "key"), [("GNN", "graph_origins"), ("CL4SRec", "contrast_origins")])
@pytest.mark.parametrize(
    ("origins", "change", "message"),
    [
        ("original", {"regenerate": "none"}, "but nothing is regenerated; add --regenerate=dr4sr"),
        ("regenerated", {"regenerate": "auto"}, "regenerate=auto may choose the originals"),
        (
            "original+regenerated",
            {"regenerate": "auto", "regenerate_origins": "pattern+regenerated"},
            "regenerate=auto tries patterns, too, and none of them is in",
        ),
        ("original", {"regenerate_origins": "pattern"}, "none of them is in regenerate_origins='pattern'"),
        (
            "regenerated",
            {"regenerate": "patterns", "regenerate_origins": "original+regenerated"},
            "no row of that origin trains",
        ),
    ],
)
def test_a_graph_or_views_of_rows_that_do_not_train(
    model: str, key: str, origins: str, change: dict[str, Any], message: str, regenerating: dict[str, Any]
) -> None:
    with pytest.raises((SettingsError, DataError), match=f"{key}='{re.escape(origins)}'.*{message}"):
        run(model, **{**regenerating, key: origins, **change}, say=silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contrast_origins": "originals"}, "unknown origin 'originals'; did you mean 'original'"),
        ({"contrast_origins": "original", "lmd": 0}, "nothing is contrasted with lmd=0"),
    ],
)
def test_views_that_cannot_be(change: dict[str, Any], message: str, regenerating: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=message):
        run("CL4SRec", **{**regenerating, **change}, say=silent)


@pytest.mark.parametrize(("model", "key"), [("GNN", "graph_origins"), ("CL4SRec", "contrast_origins")])
def test_a_graph_and_views_of_some_of_the_rows_that_train(
    model: str, key: str, regenerating: dict[str, Any]
) -> None:
    short = {**regenerating, "regenerate": "patterns", "epochs": 2}
    losses = [
        run(model, **{**short, **given}, say=silent).history[-1]["loss"]
        for given in ({}, {key: "original"}, {key: "pattern"})
    ]
    assert len({round(loss, 6) for loss in losses}) == 3


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("RaGNN", {"graph_origins": "original", "regenerate_epochs": 1}),
        ("CL4SRec", {"contrast_origins": "pattern", "position_offset": "random", "positions": "start"}),
    ],
    ids=["RaGNN", "CL4SRec"],
)
def test_what_was_trained_on_such_rows_recommends(
    model: str, change: dict[str, Any], regenerating: dict[str, Any]
) -> None:
    """Settings of training alone ask a saved recommender for nothing."""
    trained = run(model, **{**regenerating, "regenerate": "patterns", "epochs": 2, **change}, say=silent)
    table = recbole_ra.load(trained.folder).recommend("all", k=2)
    assert len(table) > 0


def test_early_stopping_waits_for_the_originals(settings: dict[str, Any]) -> None:
    found = run(
        "SASRec",
        **{**settings, "regenerate": "patterns", "regenerate_epochs": 3, "epochs": 9},
        stopping_step=0,
        stopping_margin=99,  # no epoch after the first one counts
        say=silent,
    )
    assert [epoch["epoch"] for epoch in found.history] == [0, 1, 2, 3]
