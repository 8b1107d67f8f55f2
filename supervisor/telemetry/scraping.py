"""One look at a server's metrics: what was counted, and its state now.

Runs in: supervisor. Imported when somebody asks; an Executor needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from prometheus_client.core import Metric

from killable.supervisor.clock import Clock
from killable.supervisor.files.file_store import FileStore
from killable.supervisor.jobs.job_queue import JobQueue
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.pools.pool_protocols import JobPools, RemotePools
from killable.supervisor.telemetry import metrics_exposition
from killable.supervisor.telemetry.disk_gauges import DiskGauges
from killable.supervisor.telemetry.gauges import (
    Gauges,
    gauges_of_cluster,
    gauges_of_files,
    read_gauges,
    read_rss_bytes,
)
from killable.supervisor.telemetry.observer import Observer


class JournalState(Protocol):
    """The journal, as far as it is measured."""

    path: str

    @property
    def trouble(self) -> str: ...


class Scraping:
    """Reads the metrics of one supervisor. Implements `engine.Scrapes`."""

    def __init__(
        self, observer: Observer, pools: JobPools, job_queue: JobQueue, registry: Registry, clock: Clock,
        started: float, remote: RemotePools | None, files: FileStore | None, journal: JournalState | None,
    ) -> None:  # fmt: skip
        self._observer = observer
        self._pools = pools
        self._job_queue = job_queue
        self._registry = registry
        self._clock = clock
        self._started = started
        self._remote = remote
        self._files = files
        self._journal = journal
        paths = {} if journal is None else {"journal": journal.path}
        self._disks = DiskGauges(paths if files is None else paths | {"files": files.root})

    async def counts(self) -> Mapping[str, Any]:
        """Return the document of `GET /v1/metrics`."""
        uptime_s, metrics = self._clock.now() - self._started, self._observer.metrics
        found = metrics_exposition.as_json(metrics, await self._gauges(), uptime_s)
        return found | {"ended_last_minute": metrics.ends.number(self._clock.now())}

    async def families(self) -> Sequence[Metric]:
        """Return all metrics."""
        rss_bytes = await read_rss_bytes(self._pools)
        disks = await self._disks.read()
        return metrics_exposition.families_of(self._observer.metrics, await self._gauges(disks), rss_bytes)

    async def exposition(self, *, openmetrics: bool) -> bytes:
        """Return all metrics as text, for Prometheus."""
        return metrics_exposition.as_text(await self.families(), openmetrics=openmetrics)

    async def _gauges(self, disks: Mapping[str, tuple[int, int]] | None = None) -> Gauges:
        return await read_gauges(
            self._pools, self._job_queue, self._registry, self._clock, sse_clients=self._observer.sse_clients,
            cluster=gauges_of_cluster(self._remote), files=gauges_of_files(self._files),
            journal=None if self._journal is None else self._journal.trouble, disks=disks,
        )  # fmt: skip
