"""How long a job may wait for a worker, and how it ends if it gets none: `queue_s` and `total_s` while it is queued.

Runs in: supervisor. Pure. Deadlines of a job that has a worker: `attempts/deadlines`.
"""

from __future__ import annotations

import math

from killable.supervisor.jobs.job import Job
from killable.supervisor.models import Verdict
from killable.workers.authoring.limits_and_caps import value_of


def deadline_of(job: Job) -> tuple[str, float]:
    """Return the limit that ends the wait, and when it does; an empty name: the job may wait for ever."""
    queue_s, total_s = job.limits["queue_s"], job.limits["total_s"]
    due = math.inf if queue_s is None else job.queued + queue_s
    if total_s is not None and job.created + total_s <= due:
        return "total_s", job.created + total_s
    return "" if queue_s is None else "queue_s", due


def verdict_of(job: Job, limit: str, why_waits: str) -> Verdict:
    """Return why a job ends whose wait is over. `why_waits`: what it has waited for; empty: for a worker."""
    limit_s = value_of(job.limits, limit)
    message = f"{limit} of {limit_s:g} s is over" + (f": {why_waits}" if why_waits else "")
    return Verdict("timeout.queue", facts={"limit": limit, "limit_s": limit_s, "message": message})
