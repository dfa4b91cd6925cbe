from __future__ import annotations

from typing import Any

import pytest

from recbole_ra.core.setting import declared
from recbole_ra.models.registry import BACKBONES
from recbole_ra.settings.declared import OUR_SETTINGS
from recbole_ra.settings.recbole import RECBOLE
from recbole_ra.settings.stages import STAGES

EVERY_CLASS = [*OUR_SETTINGS, *(backbone.Settings for backbone in BACKBONES.values())]


@pytest.mark.parametrize("cls", EVERY_CLASS, ids=lambda cls: cls.__name__)
def test_defaults_keep_their_own_rules(cls: Any) -> None:
    for about in declared(cls).values():
        assert about.problem(about.default) is None
        assert about.help
        assert about.shapes <= STAGES.keys()


def test_what_is_said_of_recboles_settings_names_stages() -> None:
    assert all(about.shapes <= STAGES.keys() for about in RECBOLE.values())


def test_no_name_is_declared_twice() -> None:
    """Nor does the architecture of a backbone share a name with another setting."""
    names = [name for cls in OUR_SETTINGS for name in declared(cls)]
    assert len(names) == len(set(names))
    assert not set(names) & {name for backbone in BACKBONES.values() for name in declared(backbone.Settings)}
