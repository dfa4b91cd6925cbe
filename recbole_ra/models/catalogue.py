"""What ``recbole-ra models`` says of every name that ``--model`` takes."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass

import torch

from recbole_ra.models.registry import (
    BACKBONES,
    CLOSED_FORM,
    READ_FEATURES,
    REGENERATOR,
    WITHOUT_STATES,
    available_backbones,
)


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes
    ----------
    name : str
    trains_on : str
        ``passes``: one pass of a causal encoder trains several targets; ``prefixes``: a row for each;
        ``RecBole``: as RecBole trains it; ``users``: sets of items, solved at once.
    loss : str
        The default one, and what may be chosen.
    retrieval : bool
        Whether ``Ra`` may stand before it.
    needs : str
        What the data must have besides users, items and times.
    source : str
    """

    name: str
    trains_on: str
    loss: str
    retrieval: bool
    needs: str
    source: str


def entries() -> list[Entry]:
    """Describe every model, those of ours first."""
    found = []
    for name, kind in BACKBONES.items():
        loss = "CE, BPR, BCE" + (" + InfoNCE" if kind.contrasts else "")
        trains_on = "passes" if kind.causal else "prefixes"
        found.append(Entry(name, trains_on, loss, True, "", kind.source))
    others = [name for name in available_backbones() if name not in BACKBONES]
    # RecBole's SINE has torch trace every operation of this process from its import on.
    with torch.autograd.set_detect_anomaly(torch.is_anomaly_enabled()):
        for name in others:
            needs = "features of items" if name in READ_FEATURES else ""
            found.append(
                Entry(name, "RecBole", "its own", name not in WITHOUT_STATES, needs, _reference(name))
            )
    for name, kind in CLOSED_FORM.items():
        found.append(Entry(name, "users", "squared error", False, "", kind.source))
    found.append(
        Entry(REGENERATOR, "pairs", "reconstruction", False, "", "Yin et al., KDD 2024; makes a data set")
    )
    return found


def _reference(name: str) -> str:
    """Return first author, venue and year of the last paper that RecBole names for a model."""
    module = importlib.import_module(f"recbole.model.sequential_recommender.{name.lower()}")
    text = (inspect.getdoc(module) or "").partition("Reference:")[2].partition("\n\n")[0]
    papers = re.findall(r"([^\".]+?)(?:,| et al)[^\"]*\"[^\"]+\"\.?\s*[Ii]n (\w+ \d{4})", text)
    if not papers:
        return "RecBole 1.2.1"
    author, venue = papers[-1]
    return f"{' '.join(author.split())} et al., {venue}"
