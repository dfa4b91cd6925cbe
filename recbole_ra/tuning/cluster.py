"""Ray: is it there, does it start, and what it offers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from recbole_ra.core.errors import RecboleRaError, SettingsError

OLDEST = (2, 40)
HOW = "install the tested one with `make setup-tune`, or: pip install --upgrade 'ray[tune]' optuna"

# What Ray reads when it is imported or started; what the user has set stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
}


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs of the cluster."""

    cpus: int
    gpus: int


def require_ray(*others: str) -> None:
    """Refuse to start without a Ray that works here.

    Parameters
    ----------
    *others : str
        Packages that are needed besides.

    Raises
    ------
    RecboleRaError
    """
    for package in ("ray", *others):
        try:
            found = version(package)
        except PackageNotFoundError as error:
            raise RecboleRaError(f"{package} is not installed; {HOW}") from error
        if package == "ray" and tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
            raise RecboleRaError(
                f"Ray {found} (which RecBole asks for) does not work with current NumPy; {HOW}"
            )


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Machine]:
    """Start Ray on this machine, without dashboard and for this machine alone, or join a cluster.

    Raises
    ------
    SettingsError
        If the address does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    started = not ray.is_initialized()
    if started:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if address is None:
                ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
            else:
                ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
            if address is None:
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SettingsError(
                f"address={address!r}: no Ray cluster answers ({reason}); start one with `ray start --head`, "
                "or leave it out"
            ) from error
    try:
        resources = ray.cluster_resources()
        yield Machine(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
    finally:
        if started:
            ray.shutdown()
