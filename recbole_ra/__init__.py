"""Sequential recommendation on RecBole with regenerated data and retrieved memories.

``run`` trains, selects on validation and tests once; ``load`` makes a ``Recommender`` of what it left.
Everything else is imported from its module.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import recbole_ra.core.compat  # noqa: F401  (before anything imports RecBole)

__version__ = "0.1.0"
__all__ = ["Recommender", "Result", "load", "run"]

if TYPE_CHECKING:
    from recbole_ra.inference.loading import load
    from recbole_ra.inference.recommender import Recommender
    from recbole_ra.pipeline.result import Result
    from recbole_ra.pipeline.runner import run


def __getattr__(name: str) -> Any:
    # Imported when asked for: `import recbole_ra` alone starts neither RecBole nor torch.
    if name == "run":
        from recbole_ra.pipeline.runner import run
        from recbole_ra.tuning.workers import ray_workers

        return functools.update_wrapper(functools.partial(run, start_workers=ray_workers), run)
    if name == "Result":
        from recbole_ra.pipeline.result import Result

        return Result
    if name == "load":
        from recbole_ra.inference.loading import load

        return load
    if name == "Recommender":
        from recbole_ra.inference.recommender import Recommender

        return Recommender
    raise AttributeError(f"module 'recbole_ra' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
