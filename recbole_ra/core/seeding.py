"""Named random streams: what a stage draws depends on the seed, its name and its step alone."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, name: str, *steps: int) -> np.random.Generator:
    """Return the generator of one named stream.

    Because the stream depends on nothing but its arguments, a run that is resumed at epoch ``e``
    draws what the unbroken run would have drawn there.

    Parameters
    ----------
    seed : int
        The run's seed.
    name : str
        What the numbers are for, for example ``"batches"``.
    *steps : int
        Counters inside the stream, for example the epoch.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *steps])
