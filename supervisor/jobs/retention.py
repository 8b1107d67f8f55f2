"""How long ended jobs are kept, and what is remembered of dropped ones.

Runs in: supervisor. Does no I/O.

There are three bounds: number of jobs, their bytes, and their age. One timer runs, for the job that ended first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from killable.supervisor.clock import Clock, Timer
from killable.workers.errors import Refused

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
    tenant: str


class Retention:
    """Ended jobs in the order of their ends; `drop` is called for each job that is dropped."""

    def __init__(self, *, keep_jobs: int, keep_bytes: int, keep_s: float, drop: Callable[[Job], None]) -> None:
        self._keep_jobs = keep_jobs
        self._keep_bytes = keep_bytes
        self._keep_s = keep_s
        self._drop = drop
        self._ended: dict[str, tuple[Job, int]] = {}
        """Each with the bytes that were counted for it: the same number is subtracted later."""
        self._bytes = 0
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
        size = _size(job)
        self._ended[job.id] = job, size
        self._bytes += size
        self.expire(now)
        self._arm()

    def forget(self, job: Job) -> None:
        """Stop counting an ended job that was never accepted."""
        _, size = self._ended.pop(job.id, (job, 0))
        self._bytes -= size

    def expire(self, now: float) -> None:
        """Drop ended jobs, the longest ended first, until every bound holds."""
        while self._ended:
            job_id, (job, size) = next(iter(self._ended.items()))
            bound = self._exceeded(job, now)
            if not bound:
                return
            del self._ended[job_id]
            self._bytes -= size
            self._dropped[job_id] = DroppedJob(job.public_state, job.ended_at, bound, job.submission.tenant)
            if len(self._dropped) > DROPPED_MAX:
                del self._dropped[next(iter(self._dropped))]
            self._drop(job)

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
        limit = {"keep_jobs": self._keep_jobs, "keep_bytes": self._keep_bytes, "keep_s": self._keep_s}[dropped.bound]
        return Refused(
            f"job {job_id} ended {dropped.state} at {dropped.ended_at} and is no longer kept, because of "
            f"{dropped.bound} = {_number(limit)}; "
            f"to keep jobs longer raise {dropped.bound} under [server] in killable.toml",
            code="unknown_job",
            job_id=job_id,
            state=dropped.state,
            ended_at=dropped.ended_at,
            dropped_by=dropped.bound,
            limit=limit,
        )

    def _exceeded(self, oldest: Job, now: float) -> str:
        """Return the bound because of which the job that ended first is to be dropped, or ""."""
        if now >= self._due(oldest):
            return "keep_s"
        if len(self._ended) == 1:
            return ""  # the newest job stays readable, whatever its size
        if len(self._ended) > self._keep_jobs:
            return "keep_jobs"
        return "keep_bytes" if self._bytes > self._keep_bytes else ""

    # ── time ──

    def _arm(self) -> None:
        if self._clock is None or self._timer is not None or not self._ended or math.isinf(self._keep_s):
            return
        oldest, _ = next(iter(self._ended.values()))
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
