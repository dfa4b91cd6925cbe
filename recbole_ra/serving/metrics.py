"""What is counted, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from recbole_ra.serving.desk import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "recbole_ra_requests", "Answered requests.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "recbole_ra_request_seconds",
            "From the request's headers to the answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "recbole_ra_batch_requests",
            "Requests that were answered together.",
            ["kind"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.under_way = Gauge(
            "recbole_ra_requests_under_way", "Requests that are not answered yet.", registry=self.registry
        )
        self.memories = Gauge("recbole_ra_memories", "Memories in the bank.", registry=self.registry)
        self.users = Gauge("recbole_ra_users", "Users that are known.", registry=self.registry)
        self.journal = Gauge(
            "recbole_ra_journal_changes", "Changes since the last save.", registry=self.registry
        )

    def show(self, counts: Counts) -> None:
        """Take what the recommender holds now."""
        self.memories.set(counts.memories or 0)
        self.users.set(counts.users)
        self.journal.set(counts.changes)

    def text(self) -> bytes:
        """Return everything in Prometheus' format."""
        return generate_latest(self.registry)
