"""How long a job may wait for a worker, and how it ends if it gets none: `queue_s` and `total_s` while it is queued.

Runs in: supervisor. Pure. Deadlines of a job that has a worker: `attempts/deadlines`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

from killable.supervisor.jobs.job import Job
from killable.supervisor.models import Verdict
from killable.workers.authoring.limits_and_caps import value_of

HOLDERS_MAX = 5
"""Jobs that are named of those that had the workers."""


def deadline_of(job: Job) -> tuple[str, float]:
    """Return the limit that ends the wait, and when it does; an empty name: the job may wait for ever."""
    queue_s, total_s = job.limits["queue_s"], job.limits["total_s"]
    due = math.inf if queue_s is None else job.queued + queue_s
    if total_s is not None and job.created + total_s <= due:
        return "total_s", job.created + total_s
    return "" if queue_s is None else "queue_s", due


def verdict_of(job: Job, limit: str, why_waits: str, running: Sequence[Job] = (), now: float = 0.0) -> Verdict:
    """Return why a job ends whose wait is over. `why_waits`: what it has waited for; empty: for a worker. `running`:
    the jobs that have the workers of its pool.
    """
    limit_s = value_of(job.limits, limit)
    message = f"{limit} of {limit_s:g} s is over" + (f": {why_waits}" if why_waits else "")
    facts: dict[str, Any] = {"limit": limit, "limit_s": limit_s, "message": message}
    if running:
        facts |= {"busy_workers": len(running), "held_by": _holders(job, running, now)}
    return Verdict("timeout.queue", facts=facts)


def _holders(job: Job, running: Sequence[Job], now: float) -> list[dict[str, Any]]:
    """Return those of the same tenant that have had a worker for longest: of jobs of others only the number is told."""
    ours = [each for each in running if each.submission.tenant == job.submission.tenant]
    # Thousands may end in one turn of the loop, each with its own look at hundreds.
    oldest = heapq.nsmallest(HOLDERS_MAX, ours, key=lambda each: each.assigned or now)
    return [
        {"job_id": each.id, "type": each.type.name, "for_s": round(now - (each.assigned or now), 3)} for each in oldest
    ]
