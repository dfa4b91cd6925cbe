"""The words of commands; a mistake in them is one line, as everywhere."""

from __future__ import annotations

import argparse
from typing import NoReturn

from recbole_ra.core.errors import SettingsError


class Parser(argparse.ArgumentParser):
    """Raises SettingsError where argparse prints its usage and exits."""

    def __init__(self, command: str, description: str, *, allow_abbrev: bool = False) -> None:
        super().__init__(prog=f"recbole-ra {command}", description=description, allow_abbrev=allow_abbrev)

    def error(self, message: str) -> NoReturn:
        """Refuse the words."""
        raise SettingsError(f"{self.prog.split()[-1]}: {message}; see {self.prog} --help")
