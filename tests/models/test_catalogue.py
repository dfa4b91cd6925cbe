"""Every model is listed, with what is true of it."""

from __future__ import annotations

from recbole_ra.models.catalogue import entries
from recbole_ra.models.registry import BACKBONES, CLOSED_FORM, REGENERATOR, available_backbones


def test_every_name_is_listed_once_with_its_source() -> None:
    found = entries()
    assert [entry.name for entry in found] == [*available_backbones(), *CLOSED_FORM, REGENERATOR]
    assert all(entry.source for entry in found)
    by_name = {entry.name: entry for entry in found}
    assert by_name["BERT4Rec"].source == "Fei Sun et al., CIKM 2019"
    assert by_name["SASRecCPR"].source == "Haw-Shiuan Chang et al., WSDM 2024"
    assert by_name["SASRecF"].needs == "features of items"
    assert by_name["SASRecF"].retrieval
    assert not by_name["TransRec"].retrieval
    assert not any(by_name[name].retrieval for name in CLOSED_FORM)
    for name, kind in BACKBONES.items():
        assert (by_name[name].trains_on == "passes") == kind.causal
        assert by_name[name].retrieval
