"""The mutations are of code that is there; whether the tests see them is tried by ``tests/mutations.py``."""

from __future__ import annotations

import pytest

from mutations import MUTATIONS, REPO, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_is_of_code_that_is_there_once(mutation: Mutation) -> None:
    assert (REPO / "recbole_ra" / mutation.file).read_text().count(mutation.old) == 1
    assert mutation.new != mutation.old
