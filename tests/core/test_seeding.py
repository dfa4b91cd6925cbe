from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from recbole_ra.core.seeding import stream

arguments = st.tuples(
    st.integers(0, 2**32 - 1), st.text(max_size=9), st.lists(st.integers(0, 99), max_size=3)
)


@given(arguments, arguments)
@example((1, "a", [0, 1]), (1, "a", [1, 0]))
@example((1, "a", [0, 0]), (1, "b", [0, 0]))
@example((1, "a", [0, 0]), (0, "a", [0, 0]))
def test_a_stream_depends_on_its_arguments_alone(one: tuple, other: tuple) -> None:
    def draw(about: tuple) -> list[int]:
        seed, name, steps = about
        return stream(seed, name, *steps).integers(2**62, size=4).tolist()

    assert draw(one) == draw(one)
    if one != other:
        assert draw(one) != draw(other)


def test_known_numbers() -> None:
    """What a run draws must not change between versions, or it could not be resumed or repeated."""
    assert stream(42, "batches", 3).integers(1000, size=4).tolist() == [905, 265, 898, 453]
