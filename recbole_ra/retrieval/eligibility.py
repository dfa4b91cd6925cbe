"""Which memories a query may see (METHOD 4): never itself, never its own future."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_ra.core.errors import SettingsError
from recbole_ra.data.table import IntArray


def eligible(
    *,
    query_users: IntArray,
    query_lengths: IntArray,
    query_times: NDArray[np.floating[Any]],
    memory_users: IntArray,
    memory_lengths: IntArray,
    memory_times: NDArray[np.floating[Any]],
    scope: str,
) -> NDArray[np.bool_]:
    """Tell for each pair of a query and a memory whether the query may see the memory.

    A memory of the query's own user is allowed only if its prefix is shorter than the query: at
    equal length it is the query's own target, beyond it is the user's future.

    Parameters
    ----------
    query_users, query_lengths : int64 arrays
        Owner of each query and items of its prefix. -1 means unowned.
    query_times : float array
        When the query's target happens; NaN if unknown.
    memory_users, memory_lengths : int64 arrays
        Owner of each memory and items of its prefix (the position of its target).
    memory_times : float array
        When the memory's target happened; NaN if unknown.
    scope : {"any", "past"}
        "past" also forbids every memory whose target did not happen strictly before the query's.
        Where either time is unknown (a mined pattern has none) the memory may state the future:
        it is forbidden.

    Returns
    -------
    bool array
        Of the shape that the arguments broadcast to, for example [Q, 1] queries against [Q, k]
        memories.
    """
    if scope not in ("any", "past"):
        raise SettingsError(f"memory_scope={scope!r} must be any or past")
    own = (query_users == memory_users) & (np.asarray(query_users) != -1)
    allowed = ~(own & (memory_lengths >= query_lengths))
    if scope == "past":
        # A comparison with NaN is False, which is the answer wanted.
        allowed = allowed & (memory_times < query_times)
    return np.asarray(allowed, dtype=np.bool_)
