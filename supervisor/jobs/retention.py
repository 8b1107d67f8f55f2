"""How long ended jobs are kept, and what is remembered of dropped ones.

Runs in: supervisor. Does no I/O.

There are four bounds: number of jobs, their bytes, those of the files that they have saved, and their age. Over one of
the first three, the tenant that has the
most loses the one of its jobs that ended first; a tenant may have bounds of its own. One timer runs, for the job that
ended first.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from killable.supervisor.clock import Clock, Timer
from killable.supervisor.jobs.tenants import Tenants
from killable.workers.errors import Refused
from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    from killable.supervisor.jobs.job import Job

JOB_BYTES = 3 << 10
"""Memory of an ended job besides its output: record, certificate, error, table slots (2.5 to 2.9 KiB each)."""
DROPPED_MAX = 4096
"""Dropped jobs that are remembered: about 1.5 MB."""


class DroppedJob(NamedTuple):
    """What is remembered of a job that is no longer kept."""

    state: str
    ended_at: str | None
    bound: str
    """The setting because of which it was dropped."""
    limit: float
    """Its value."""
    table: str
    """The table of the file that it is in."""
    tenant: str


class _Ended(NamedTuple):
    job: Job
    size: int
    """The bytes that were counted for it: the same number is subtracted later."""
    files_bytes: int
    """The same of the files that it has saved."""


class _Share:
    """The ended jobs of one tenant."""

    __slots__ = ("bytes", "files_bytes", "jobs")

    def __init__(self) -> None:
        self.jobs: OrderedDict[str, _Ended] = OrderedDict()
        self.bytes = self.files_bytes = 0


class Retention:
    """Ended jobs in the order of their ends; `drop` is called for each job that is dropped, with the time."""

    def __init__(
        self, *, keep_jobs: int, keep_bytes: int, keep_s: float, tenants: Tenants, drop: Callable[[Job, float], None],
        keep_files_bytes: float = math.inf,
    ) -> None:  # fmt: skip
        self._keep_jobs = keep_jobs
        self._keep_bytes = keep_bytes
        self._keep_s = keep_s
        self._keep_files_bytes = keep_files_bytes
        self._tenants = tenants
        self._drop = drop
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._shares: dict[str, _Share] = {}
        """By tenant; none is empty."""
        self._bytes = self._files_bytes = 0
        self._dropped: dict[str, DroppedJob] = {}
        self._clock: Clock | None = None
        self._timer: Timer | None = None

    def start(self, clock: Clock) -> None:
        """Start the timer: jobs are then dropped when their time is over, not only when another one ends."""
        self._clock = clock
        self._arm()

    def close(self) -> None:
        """Stop the timer for good."""
        self._clock = None
        self._disarm()

    def note_end(self, job: Job, now: float) -> None:
        """Keep a job that has ended; it may be dropped from here on."""
        ended = _Ended(job, _size(job), job.files_bytes)
        tenant = job.submission.tenant
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = _Share()
        self._ended[job.id] = share.jobs[job.id] = ended
        share.bytes += ended.size
        share.files_bytes += ended.files_bytes
        self._bytes += ended.size
        self._files_bytes += ended.files_bytes
        self.expire(now)
        self._make_room_of(share, job, now)
        self._make_room(now)
        self._arm()

    def forget(self, job: Job) -> None:
        """Stop counting an ended job that was never accepted."""
        if job.id in self._ended:
            self._remove(job)

    def expire(self, now: float) -> None:
        """Drop the jobs whose time is over."""
        while self._ended:
            oldest = next(iter(self._ended.values())).job
            if now < self._due(oldest):
                return
            self._drop_for(oldest, "keep_s", now)

    def shares(self) -> Iterator[tuple[str, int, int]]:
        """Yield each tenant with the number of its ended jobs and their bytes."""
        return ((tenant, len(share.jobs), share.bytes) for tenant, share in self._shares.items())

    def _make_room_of(self, share: _Share, newest: Job, now: float) -> None:
        """Drop a tenant's jobs, the longest ended first, until its own bounds hold; its newest one stays."""
        bounds = self._tenants.bounds_of(newest.submission)
        keep_jobs = math.inf if bounds.keep_jobs is None else bounds.keep_jobs
        keep_bytes = math.inf if bounds.keep_bytes is None else bounds.keep_bytes
        while len(share.jobs) > 1 and (len(share.jobs) > keep_jobs or share.bytes > keep_bytes):
            bound = "keep_jobs" if len(share.jobs) > keep_jobs else "keep_bytes"
            self._drop_for(next(iter(share.jobs.values())).job, bound, now, of_tenant=True)

    def _make_room(self, now: float) -> None:
        """Drop jobs until the bounds of all tenants together hold: the longest ended of the tenant that has the most.

        The newest job stays readable, whatever its size.
        """
        while len(self._ended) > 1:
            if len(self._ended) > self._keep_jobs:
                bound, most = "keep_jobs", max(self._shares.values(), key=lambda share: len(share.jobs))
            elif self._bytes > self._keep_bytes:
                bound, most = "keep_bytes", max(self._shares.values(), key=lambda share: share.bytes)
            elif self._files_bytes > self._keep_files_bytes:
                bound, most = "keep_files_bytes", max(self._shares.values(), key=lambda share: share.files_bytes)
            else:
                return
            victim, newest = next(iter(most.jobs.values())).job, next(reversed(self._ended.values())).job
            if victim is newest:
                victim = next(iter(self._ended.values())).job
            self._drop_for(victim, bound, now)

    def _drop_for(self, job: Job, bound: str, now: float, *, of_tenant: bool = False) -> None:
        """Drop a job because of a bound, and remember why."""
        limit: float = getattr(self, f"_{bound}")
        table = "server"
        if of_tenant:
            limit = getattr(self._tenants.bounds_of(job.submission), bound)
            table = f"tenants.{job.submission.tenant}"
        self._remove(job)
        self._dropped[job.id] = DroppedJob(job.public_state, job.ended_at, bound, limit, table, job.submission.tenant)
        if len(self._dropped) > DROPPED_MAX:
            del self._dropped[next(iter(self._dropped))]
        self._drop(job, now)

    def _remove(self, job: Job) -> None:
        _, size, files_bytes = self._ended.pop(job.id)
        self._bytes -= size
        self._files_bytes -= files_bytes
        tenant = job.submission.tenant
        share = self._shares[tenant]
        share.bytes -= size
        share.files_bytes -= files_bytes
        del share.jobs[job.id]
        if not share.jobs:
            del self._shares[tenant]

    def unknown(self, job_id: str, tenant: str | None = None) -> Refused:
        """Return the refusal for a job that is not kept, with everything that is remembered of it.

        To a `tenant` the job of another one is as unknown as one that never was.
        """
        dropped = self._dropped.get(job_id)
        if dropped is None or tenant not in (None, dropped.tenant):
            return Refused(
                f"there is no job {job_id}: it never existed, or it ended so long ago that its record was removed; "
                "jobs are kept in the memory of one run of the server, unless server.journal names a file",
                code="unknown_job",
                job_id=job_id,
            )
        return Refused(
            f"job {job_id} ended {dropped.state} at {dropped.ended_at} and is no longer kept, because of "
            f"{dropped.bound} = {_number(dropped.limit)}; "
            f"to keep jobs longer raise {dropped.bound} under [{dropped.table}] in killable.toml",
            code="unknown_job",
            job_id=job_id,
            state=dropped.state,
            ended_at=dropped.ended_at,
            dropped_by=dropped.bound,
            limit=dropped.limit,
        )

    # ── time ──

    def _arm(self) -> None:
        if self._clock is None or self._timer is not None or not self._ended or math.isinf(self._keep_s):
            return
        oldest = next(iter(self._ended.values())).job
        self._timer = self._clock.call_at(self._due(oldest), self._on_timer)

    def _due(self, job: Job) -> float:
        """Return when a job's time is over. Timer and check must use the same float, to the last digit."""
        assert job.ended is not None
        return job.ended + self._keep_s

    def _on_timer(self) -> None:
        """Drop expired jobs and set the timer again. The job that it was set for may be gone already."""
        assert self._clock is not None
        self._timer = None
        self.expire(self._clock.now())
        self._arm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _size(job: Job) -> int:
    """Return the approximate memory of an ended job, which holds its traceback and stack twice."""
    facts = job.outcome.facts if job.outcome else {}
    texts = (*facts.values(), *(job.certificate or {}).values())
    return JOB_BYTES + job.kept_bytes + sum(len(text) for text in texts if isinstance(text, str))


def _number(limit: float) -> str:
    return str(limit) if isinstance(limit, int) else f"{limit:g}"
