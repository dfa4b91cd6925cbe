"""Requests in a queue, and one thread that answers many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from recbole_ra.core.console import say
from recbole_ra.serving.desk import CHANGING, Desk, Outcome
from recbole_ra.serving.metrics import Metrics
from recbole_ra.serving.problems import Refusal


@dataclass
class Job:
    """A request that waits.

    Attributes
    ----------
    kind : str
        Method of :class:`Desk` that answers it.
    asked : object
    outcome : Future
    """

    kind: str
    asked: Any
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Engine:
    """Collects requests for a moment and has them answered together.

    While the thread works, requests queue up, so batches grow with the load by themselves.

    Parameters
    ----------
    desk : Desk
    metrics : Metrics
    batch : int
        Requests answered together at most.
    window : float
        Seconds that the first of them waits for more.

    Attributes
    ----------
    counts : Counts
        Of the recommender, after the last change.
    """

    def __init__(self, desk: Desk, metrics: Metrics, *, batch: int, window: float) -> None:
        self.desk, self.metrics = desk, metrics
        self.batch, self.window = batch, window
        self.counts = desk.counts()
        metrics.show(self.counts)
        self._queue: asyncio.Queue[Job | None] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="desk")

    async def ask(self, kind: str, asked: Any) -> bytes:
        """Wait for the answer to a request.

        Raises
        ------
        Refusal
            If there is none.
        """
        job = Job(kind, asked)
        self._queue.put_nowait(job)
        outcome = await job.outcome
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer meanwhile; at the end, answer what waits and save."""
        task = asyncio.create_task(self._run())
        loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._queue.put_nowait(None)
            await task
            await loop.run_in_executor(self._thread, self.desk.close)
            self._thread.shutdown()

    async def _run(self) -> None:
        loop, last = asyncio.get_running_loop(), False
        while not last:
            jobs: list[Job] = []
            last = await self._collect(jobs)
            for kind in dict.fromkeys(job.kind for job in jobs):
                alike = [job for job in jobs if job.kind == kind and not job.outcome.done()]
                if not alike:  # who asked is gone
                    continue
                self.metrics.batch.labels(kind).observe(len(alike))
                answer = getattr(self.desk, kind)
                outcomes = await loop.run_in_executor(self._thread, _answered, answer, alike)
                for job, outcome in zip(alike, outcomes, strict=True):
                    if not job.outcome.done():
                        job.outcome.set_result(outcome)
                if kind in CHANGING:
                    self.counts = self.desk.counts()
                    self.metrics.show(self.counts)

    async def _collect(self, jobs: list[Job]) -> bool:
        """Fill a batch; returns whether it is the last."""
        first = await self._queue.get()
        if first is not None and self._queue.qsize() < self.batch - 1:
            await asyncio.sleep(self.window)
        while first is not None:
            jobs.append(first)
            if len(jobs) == self.batch or self._queue.empty():
                return False
            first = self._queue.get_nowait()
        return True


def _answered(answer: Callable[[Sequence[Any]], list[Outcome]], jobs: list[Job]) -> list[Outcome]:
    """Answer; what is a fault of this program is said, and the next request is answered nevertheless."""
    try:
        return answer([job.asked for job in jobs])
    except Exception as error:
        say(f"recbole-ra: {jobs[0].kind}: {type(error).__name__}: {error}")
        return [Refusal(500, "a fault of the server; its log says more") for _ in jobs]
