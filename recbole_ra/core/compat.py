"""Everything that RecBole 1.2.1 needs to live on current NumPy, torch and pandas.

* RecBole uses NumPy's removed aliases (``np.float``, ``np.long`` …) all over; its own
  ``Config.compatibility_settings`` restores them, but names ``np.float_`` and ``np.unicode_``,
  which NumPy 2 removed. :func:`restore_numpy_aliases` sets the same aliases on every version.
* RecBole's trainer opens checkpoints with a pickle-loading ``torch.load``; our trainer overrides
  the two methods that do (see ``trainer.py``), so nothing is patched.
* RecBole's trainer builds ``torch.cuda.amp.GradScaler``, deprecated but working; its warning is
  silenced here.
"""

from __future__ import annotations

import warnings

import numpy as np

ALIASES = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
}


def restore_numpy_aliases() -> None:
    """Give NumPy the aliases that RecBole reads; attributes that exist are left alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # np.object and friends warn on mere access in NumPy 1.26
        for name, kind in ALIASES.items():
            if not hasattr(np, name):
                setattr(np, name, kind)


def silence_known_warnings() -> None:
    """Hide warnings about RecBole's own code that a user can do nothing about."""
    warnings.filterwarnings("ignore", message=r".*GradScaler.*", category=FutureWarning)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\..*")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"recbole\..*")
    # Of torch under NumPy 2, wherever NumPy is given a tensor.
    warnings.filterwarnings("ignore", message="__array_wrap__ must accept", category=DeprecationWarning)


restore_numpy_aliases()
silence_known_warnings()
