"""Several processes for the stages of one run, on Ray, which replaces a process that dies."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

from recbole_ra.core.errors import RecboleRaError, SettingsError
from recbole_ra.core.workers import Found, Part
from recbole_ra.settings.config import RaConfig
from recbole_ra.tuning.cluster import Machine, connected, gpu_settings, require
from recbole_ra.tuning.options import portable

RETRIES = 3
POLL_S = 0.2


@contextlib.contextmanager
def ray_workers(config: RaConfig) -> Iterator[RayWorkers]:
    """Offer as many processes as the settings ask for, on this machine or on the cluster of ``address``."""
    require("ray")
    with connected(config.run.address) as machine:
        yield RayWorkers(config, machine)


class RayWorkers:
    """Processes that share the work of a run; see :class:`recbole_ra.core.workers.Workers`.

    Raises
    ------
    SettingsError
        If there are fewer CPUs or GPUs than the settings ask for.
    """

    def __init__(self, config: RaConfig, machine: Machine) -> None:
        self.config, self.count = config, config.run.workers
        self.uses_gpu = config.torch_device.type != "cpu"
        there = machine.gpus if self.uses_gpu else machine.cpus
        if self.count > there:
            kind = "GPUs" if self.uses_gpu else "CPUs"
            more = " (--gpu_id=0,1 names more than one)" if self.uses_gpu else ""
            raise SettingsError(f"workers={self.count} but there are {there} {kind}{more}; lower it")
        # Ray gives a process as many threads as it asks for CPUs; on a cluster one machine may not have more.
        self.cpus = max(1, machine.cpus // self.count) if config.run.address is None else 1

    def map(
        self, function: Callable[[Any, Part], Found], shared: Any, parts: Sequence[Part]
    ) -> Iterator[Found]:
        """Work on the parts in processes that keep what is shared, each with one part at a time."""
        import ray
        from ray.util import ActorPool

        retries = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
        actor = ray.remote(num_cpus=self.cpus, num_gpus=int(self.uses_gpu), **retries)(_Worker)
        sent = ray.put(shared)
        pool = ActorPool([actor.remote(function, sent) for _ in range(min(self.count, max(len(parts), 1)))])
        yield from pool.map(lambda worker, part: worker.work.remote(part), parts)

    def train_backbone(
        self, settings: Mapping[str, Any], folder: Path, on_epoch: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Train with Ray Train; if a process dies, all go on from the last epoch.

        Raises
        ------
        RecboleRaError
            If they die again and again.
        """
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.util.queue import Queue

        folder = folder.absolute()
        epochs = Queue()
        trainer = TorchTrainer(
            train_loop,
            train_loop_config={
                "settings": {**portable(settings, self.config), "show_progress": False},
                "uses_gpu": self.uses_gpu,
                "folder": str(folder),
                "epochs": epochs,
            },
            torch_config=TorchConfig(backend="nccl" if self.uses_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=self.count,
                use_gpu=self.uses_gpu,
                resources_per_worker={"CPU": self.cpus, **({"GPU": 1} if self.uses_gpu else {})},
            ),
            run_config=RunConfig(
                name="train",
                storage_path=str(folder / "ray"),
                failure_config=FailureConfig(max_failures=RETRIES),
            ),
        )
        failed: list[BaseException] = []

        def fit() -> None:
            try:
                trainer.fit()
            except Exception as error:  # handed over to the thread that waits
                failed.append(error)

        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        while thread.is_alive() or not epochs.empty():
            with contextlib.suppress(Empty):
                on_epoch(epochs.get(timeout=POLL_S))
        thread.join()
        if failed:
            cause = _cause(failed[0])
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[-1]
            raise RecboleRaError(f"training with {self.count} workers failed: {reason}") from failed[0]


class _Worker:
    """A process that keeps what all parts have in common."""

    def __init__(self, function: Callable[[Any, Any], Any], shared: Any) -> None:
        self.function, self.shared = function, shared

    def work(self, part: Any) -> Any:
        """Compute the result of one part."""
        return self.function(self.shared, part)


def _cause(error: BaseException) -> BaseException:
    """Return what a worker raised, if Ray Train says so; a user's mistake before what followed from it."""
    failures = list(getattr(error, "worker_failures", {}).values())
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    return next((cause for cause in causes if isinstance(cause, RecboleRaError)), (causes or [error])[0])


def train_loop(job: dict[str, Any]) -> None:
    """Train a backbone's part of each batch; what each process of Ray Train runs."""
    from ray import train

    from recbole_ra.training.backbone import train_part

    settings = {**job["settings"], **gpu_settings(job["uses_gpu"])}
    first = train.get_context().get_world_rank() == 0
    if not first:
        settings["log_wandb"] = False
    train_part(settings, Path(job["folder"]), job["epochs"].put if first else None)
