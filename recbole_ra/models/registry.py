"""Which names ``--model`` takes.

A name is a backbone of ours, a sequential model that RecBole ships, ``Ra`` before either of them
(the retrieval-augmented recommender over that backbone), a model that is solved in closed form, or the
regenerator of data sets.
"""

from __future__ import annotations

from typing import Any

from recbole_ra.core.errors import SettingsError, nearest
from recbole_ra.models.bsarec import BSARec
from recbole_ra.models.cl4srec import CL4SRec
from recbole_ra.models.duorec import DuoRec
from recbole_ra.models.fmlprec import FMLPRec
from recbole_ra.models.gnn import GNN
from recbole_ra.models.gru4rec import GRU4Rec
from recbole_ra.models.infinite_ae import InfiniteAE
from recbole_ra.models.melt import MELTFMLPRec, MELTSASRec
from recbole_ra.models.sasrec import SASRec

BACKBONES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (SASRec, DuoRec, CL4SRec, BSARec, FMLPRec, GRU4Rec, GNN, MELTSASRec, MELTFMLPRec)
}
"""Backbones of ours by name: subclasses of ``EncoderBackbone`` with ``Settings``."""

CLOSED_FORM: dict[str, Any] = {kind.__name__: kind for kind in (InfiniteAE,)}
"""Models of ours that are solved in one step, by name; with ``Settings``, and without ``Ra``."""

OURS = {**BACKBONES, **CLOSED_FORM}

SEQUENTIAL_MODELS_OF_RECBOLE = (
    "BERT4Rec Caser CORE FDSA FEARec FOSSIL FPMC GCSAN GRU4Rec GRU4RecCPR GRU4RecF HGN HRM LightSANs "
    "NARM NextItNet NPE RepeatNet SASRecCPR SASRecF SHAN SINE SRGNN STAMP TransRec"
).split()


WITHOUT_STATES = ("FPMC", "RepeatNet", "TransRec")
"""Models of RecBole's that do not score by an inner product, so that no memory can be fused into them."""

READ_FEATURES = ("FDSA", "GRU4RecF", "SASRecF")
"""Models of RecBole's that read features of items, which the data set must have."""

REGENERATOR = "DR4SR"
"""The model that makes a regenerated data set and ranks nothing; it starts from SASRec's item vectors."""


def available_backbones() -> list[str]:
    """List every backbone that ``--model`` takes, alone or with ``Ra`` before it."""
    return [*BACKBONES, *(name for name in SEQUENTIAL_MODELS_OF_RECBOLE if name not in BACKBONES)]


def backbone_name(model: str) -> str:
    """Return the backbone of a model name: ``RaGRU4Rec`` -> ``GRU4Rec``.

    Raises
    ------
    SettingsError
        If there is no such model.
    """
    if model in CLOSED_FORM:
        return model
    if model.removeprefix("Ra") in CLOSED_FORM:
        own = model.removeprefix("Ra")
        raise SettingsError(
            f"model {model}: no memories can be fused into {own}, whose state has an entry for each training "
            f"row; use {own}, or Ra before a backbone"
        )
    if model == REGENERATOR:
        return "SASRec"
    known = available_backbones()
    for name in (model, model.removeprefix("Ra")):
        if name in known:
            return name
    every = [*known, *(f"Ra{name}" for name in known), *CLOSED_FORM, REGENERATOR]
    raise SettingsError(f"unknown model '{model}'{nearest(model, every)}; --help lists all")
