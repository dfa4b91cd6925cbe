"""Ray: is it there, does it start, and what it offers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from recbole_ra.core.errors import RecboleRaError, SettingsError

OLDEST = (2, 51)  # the first whose Ray Train is the one of today
KNOCK_S = 5.0
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


def gpu_settings(uses_gpu: bool) -> dict[str, Any]:
    """Settings that keep a process of Ray's to the GPU that Ray gave it; RecBole names one by itself."""
    if not uses_gpu:
        return {"use_gpu": False}
    return {"gpu_id": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}


def require(*packages: str) -> None:
    """Refuse to start without these packages, or with a Ray that does not work here."""
    for package in packages:
        try:
            found = version(package)
        except PackageNotFoundError as error:
            raise RecboleRaError(f"{package} is not installed; {HOW}") from error
        if package == "ray" and tuple(map(int, found.split(".")[:2])) < OLDEST:
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
    ends = signal.getsignal(signal.SIGTERM)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None and started:
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    elif address is not None:
        try:
            _check_reachable(address)
            if started:
                ray.init(address=address, **quiet)
        except (OSError, OverflowError, RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SettingsError(
                f"address={address!r}: no Ray cluster answers ({reason}); start one with "
                "`ray start --head`, or leave --address out"
            ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ends)  # Ray's own handler prints its stack and aborts
    try:
        resources = ray.cluster_resources()
        yield Machine(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
    finally:
        if started:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Knock at the port: Ray itself gives up only after minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if address != "auto" and colon:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
