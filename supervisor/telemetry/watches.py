"""The two live streams of a server: of its jobs and of its workers.

Runs in: supervisor. Made when the first of them is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.durable_ends import Disk
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_queue import JobQueue
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.records import JobRecord
from killable.supervisor.telemetry.job_watch import JobWatch
from killable.supervisor.telemetry.observer import Observer
from killable.supervisor.telemetry.worker_watch import WorkerWatch

if TYPE_CHECKING:
    from killable.supervisor.pools.pool_protocols import JobPools, RemotePools


class Watches:
    """Of one supervisor."""

    def __init__(
        self, pools: JobPools, job_queue: JobQueue, registry: Registry, observer: Observer, clock: Clock,
        *, started: float, is_draining: Callable[[], bool], disk: Disk | None, remote_pools: RemotePools | None,
        record_of: Callable[[Job], JobRecord], own_use: Callable[[], tuple[float, int]], node: str,
    ) -> None:  # fmt: skip
        """`disk`: the journal, if there is one. `worker_watch` has the others."""
        self.jobs = JobWatch(registry, clock, disk, record_of, observer.watch_by)
        self.workers = WorkerWatch(
            pools, job_queue, registry, observer.metrics, clock, started=started, is_draining=is_draining,
            nodes=lambda: () if remote_pools is None else remote_pools.node_records(), own_use=own_use, node=node,
        )  # fmt: skip

    def close(self) -> None:
        """End the streams, after the last job."""
        self.jobs.close()
        self.workers.close()
