"""The current state in numbers, read only when a client asks for the metrics.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job_queue import JobQueue
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.models import ACTIVE_STATES
from killable.supervisor.pools.worker import WorkerStage
from killable.supervisor.records import NodeRecord, PoolRecord, TenantRecord
from killable.supervisor.telemetry import loop_turns
from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    from killable.supervisor.files.file_store import FileStore
    from killable.supervisor.pools.pool_protocols import JobPools, RemotePools

TENANTS_MAX = 100
"""Tenants with series of their own in one scrape: names of keys, which come and go, must not make endless series."""

WORKER_STATES = ("spawning", "idle", "busy", "stopping", "leaving", "quarantined")


class ClusterGauges(NamedTuple):
    """Of a head."""

    nodes: Sequence[NodeRecord]
    nodes_lost: int
    """How often a node was lost."""
    cpus_requested: int
    """Processors that whoever scales the cluster was asked for last."""


class FileGauges(NamedTuple):
    """Of a server that keeps files."""

    number: int
    """Uploaded files that are there."""
    size: int
    """Their bytes."""
    received_bytes: int
    sent_bytes: int


def gauges_of_cluster(remote: RemotePools | None) -> ClusterGauges | None:
    """Return those of a head's nodes; None: the workers are of this machine."""
    return None if remote is None else ClusterGauges(remote.node_records(), remote.nodes_lost, remote.cpus_requested)


def gauges_of_files(store: FileStore | None) -> FileGauges | None:
    """Return those of what keeps the files; None: nothing does."""
    return None if store is None else FileGauges(store.count, store.bytes, store.received_bytes, store.sent_bytes)


@dataclass(frozen=True, slots=True)
class Gauges:
    queue_depth: int
    queue_bytes: int
    tenants: list[TenantRecord]
    """Those that have the most now, TENANTS_MAX at most."""
    jobs: dict[str, int]
    """Active jobs by public state."""
    workers: dict[str, int]
    """Workers by state, with a number for each of WORKER_STATES."""
    live_tokens: int
    """Tokens emitted so far by jobs that have not ended."""
    zygote_restarts: int
    sse_clients: int
    loop_lag_s: float
    loop_longest_s: float
    """The longest turn of the event loop in the last minute or two."""
    queued: Mapping[str, int] = field(default_factory=dict)
    """Waiting jobs by type, with a number for each type."""
    queue_age_s: float = 0.0
    """Seconds for which the job has waited that waits longest."""
    pools: Sequence[PoolRecord] = ()
    journal: str | None = None
    """What is wrong with the journal; None: there is none."""
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Free bytes and all bytes of the disks that are written to, by what is there."""
    cluster: ClusterGauges | None = None
    """None where the server is one machine."""
    files: FileGauges | None = None
    """None where the server keeps none."""

    @property
    def spares(self) -> int:
        """The number of warm workers that wait for a job."""
        return self.workers["idle"]


async def read_gauges(
    pools: JobPools, job_queue: JobQueue, registry: Registry, clock: Clock, *, sse_clients: int,
    cluster: ClusterGauges | None = None, files: FileGauges | None = None, journal: str | None = None,
    disks: Mapping[str, tuple[int, int]] | None = None,
) -> Gauges:  # fmt: skip
    """Measure the loop lag, then read everything else in one turn of the loop."""
    loop_lag_s = await _loop_lag_s(clock)
    active = registry.active()
    jobs = Counter(job.public_state for job in active)
    waiting = [job for job in active if job.state is State.QUEUED]
    queued = Counter({job_type.name: 0 for job_type in pools.types()})
    queued.update(job.type.name for job in waiting)
    workers = Counter(worker.state for pool in pools.with_workers() for worker in pool.workers.values())
    return Gauges(
        queue_depth=len(job_queue),
        queue_bytes=job_queue.bytes,
        tenants=registry.tenant_records(_busiest(registry)),
        jobs={state: jobs[state] for state in ACTIVE_STATES},
        workers={state: workers[state] for state in WORKER_STATES},
        live_tokens=sum(job.log.tokens for job in active),
        zygote_restarts=sum(pool.zygote_restarts for pool in pools),
        sse_clients=sse_clients,
        loop_lag_s=loop_lag_s,
        loop_longest_s=loop_turns.longest_s(),
        queued=queued,
        queue_age_s=max((clock.now() - job.queued for job in waiting), default=0.0),
        pools=pools.pool_records(),
        journal=journal,
        disks=disks or {},
        cluster=cluster,
        files=files,
    )


def _busiest(registry: Registry) -> list[str]:
    """Return the tenants that have the most jobs now, TENANTS_MAX at most."""
    counts = registry.tenants
    known = sorted(registry.known_tenants(), key=lambda name: (-counts.queued[name] - counts.running[name], name))
    return known[:TENANTS_MAX]


async def read_rss_bytes(pools: JobPools) -> int:
    """Return the resident memory of all workers together, in bytes. Shared memory is counted in each worker."""
    living = (worker for pool in pools.with_workers() for worker in pool.workers.values())
    workers = [worker for worker in living if worker.stage is not WorkerStage.GONE]
    samples = await asyncio.gather(*(worker.measured(alone=False) for worker in workers))
    return sum(sample.resident_bytes for sample in samples if sample is not None)


async def _loop_lag_s(clock: Clock) -> float:
    """Return how long one whole turn of the event loop takes: the longest wait of a signal, a frame or a request."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    # The callback runs after those that are ready now, and this task after those that became ready meanwhile.
    loop.call_soon(turn.set_result, None)
    began = clock.now()
    await turn
    return clock.now() - began
