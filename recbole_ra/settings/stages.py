"""The stages of a run: what each is made from, and the version of what it computes.

A stage's key is the digest of its version, of the settings that shape it, of the data it may see and of
the keys of the stages before it (``training/run.py``). Raise a stage's version when its code computes
something else from the same inputs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    after : tuple of str
        Stages whose results it may read.
    version : int
    sees_held_out : bool
        Whether it sees more of the data than each user's training part.
    stored : bool
        Whether its result is kept in the artifact store.
    """

    after: tuple[str, ...] = ()
    version: int = 2
    sees_held_out: bool = False
    stored: bool = True


STAGES = {
    "patterns": Stage(stored=False),  # mined anew in each run: faster than reading them
    "teacher": Stage(version=5),
    "regenerator": Stage(after=("patterns", "teacher")),
    "decoded": Stage(after=("regenerator", "teacher")),
    "rows": Stage(
        after=("patterns", "decoded"), stored=False
    ),  # the training rows; their key is the digest of the rows
    "backbone": Stage(after=("rows",), version=7, sees_held_out=True),
    "bank": Stage(after=("patterns", "rows", "backbone"), version=5, sees_held_out=True),
    "raft": Stage(after=("backbone", "bank"), version=8, sees_held_out=True),
    "test_bank": Stage(after=("bank",), sees_held_out=True, stored=False),  # what the test retrieves from
}
"""All stages, in the order in which they run."""

STORED = frozenset(name for name, stage in STAGES.items() if stage.stored)


def stages_before(name: str) -> frozenset[str]:
    """Return the stages whose results a stage reads, directly or not."""
    found: set[str] = set()
    for before in STAGES[name].after:
        found |= {before} | stages_before(before)
    return frozenset(found)
