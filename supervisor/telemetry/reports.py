"""The metrics, as who asks for them gets them: as JSON, or as text.

Runs in: supervisor. Made when they are first asked for: it needs prometheus_client, an Executor does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job_queue import JobQueue
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.telemetry import metrics_exposition
from killable.supervisor.telemetry.gauges import (
    Gauges,
    gauges_of_cluster,
    gauges_of_files,
    read_gauges,
    read_rss_bytes,
)
from killable.supervisor.telemetry.observer import Observer

if TYPE_CHECKING:
    from killable.supervisor.files.file_store import FileStore
    from killable.supervisor.pools.pool_protocols import JobPools, RemotePools


class Reports:
    """Of one supervisor."""

    def __init__(
        self, pools: JobPools, job_queue: JobQueue, registry: Registry, observer: Observer, clock: Clock,
        *, started: float, remote_pools: RemotePools | None, files: FileStore | None,
    ) -> None:  # fmt: skip
        """`started` is when the supervisor was, in monotonic seconds."""
        self._pools = pools
        self._job_queue = job_queue
        self._registry = registry
        self._observer = observer
        self._clock = clock
        self._started = started
        self._remote_pools = remote_pools
        self._files = files

    async def counts(self) -> Mapping[str, Any]:
        gauges = await self._gauges()
        return metrics_exposition.as_json(self._observer.metrics, gauges, self._clock.now() - self._started)

    async def exposition(self, *, openmetrics: bool) -> bytes:
        rss_bytes = await read_rss_bytes(self._pools)
        gauges = await self._gauges()
        return metrics_exposition.as_text(self._observer.metrics, gauges, rss_bytes, openmetrics=openmetrics)

    async def _gauges(self) -> Gauges:
        return await read_gauges(
            self._pools, self._job_queue, self._registry, self._clock, sse_clients=self._observer.sse_clients,
            cluster=gauges_of_cluster(self._remote_pools), files=gauges_of_files(self._files),
        )  # fmt: skip
