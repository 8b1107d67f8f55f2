"""What each tenant has, beside its bounds: `[tenants.NAME]` of `killable.toml`.

Runs in: supervisor. Pure: counts and settings. `registry` and `dispatcher` tell it what becomes of jobs.

    a key's table  >  [tenants.default]  >  built in: half of the queue, no other bound

The tenant `default` (everybody on a server without API keys) and operators have no bound but those that are written:
`default` those of [tenants.default], an operator those of a table with its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.job_queue import QueueFull
from killable.supervisor.jobs.lifecycle import TERMINAL, State
from killable.supervisor.jobs.submission_rate import SubmissionRate
from killable.supervisor.models import DEFAULT_TENANT, Submission
from killable.supervisor.records import Quota
from killable.supervisor.settings import TenantSettings
from killable.workers.errors import Refused


class Tenants:
    """The bounds of all tenants, and what they have now. An Executor's tasks are not counted."""

    def __init__(self, written: Mapping[str, Mapping[str, Any]], *, queue_jobs_max: int, queue_bytes_max: int) -> None:
        """`written` has the members of each `[tenants.NAME]`; the bounds are those of the whole queue."""
        built_in = {"queue_jobs_max": -(-queue_jobs_max // 2), "queue_bytes_max": -(-queue_bytes_max // 2)}
        everybody = _over({}, written.get(DEFAULT_TENANT, {}))
        others = _over(built_in, everybody)
        self._alone, self._others, self._operators = _settings(everybody), _settings(others), TenantSettings()
        self._own = {
            name: _settings(_over(others, members)) for name, members in written.items() if name != DEFAULT_TENANT
        }
        self.queued: Counter[str] = Counter()
        self.queued_bytes: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        """Jobs that have a worker."""
        self._reserved: Counter[str] = Counter()
        """Jobs for which a worker is kept while their start is written to the journal."""
        self.streams: Counter[str] = Counter()
        self._rates: dict[tuple[str, bool], SubmissionRate] = {}
        """By tenant, and whether they are repeats."""

    def bounds(self, tenant: str, *, operator: bool = False) -> TenantSettings:
        """Return a tenant's bounds."""
        own = self._own.get(tenant)
        if own is not None:
            return own
        if operator:
            return self._operators
        return self._alone if tenant == DEFAULT_TENANT else self._others

    def bounds_of(self, submission: Submission) -> TenantSettings:
        """Return the bounds of the tenant that submits it."""
        return self.bounds(submission.tenant, operator=submission.operator)

    # ── admission ──

    def check_priority(self, submission: Submission) -> None:
        """Raise Refused: priority_over_max."""
        highest = self.bounds_of(submission).priority_max
        if highest is not None and submission.priority > highest:
            raise Refused(
                f"a priority of {submission.priority} exceeds {highest}, the highest of tenant {submission.tenant}",
                code="priority_over_max",
                priority_max=highest,
                asked=submission.priority,
            )

    def check_room(self, submission: Submission) -> None:
        """Raise QueueFull when the tenant's share of the queue has no room for one more job."""
        bounds, tenant = self.bounds_of(submission), submission.tenant
        if bounds.queue_jobs_max is not None and self.queued[tenant] >= bounds.queue_jobs_max:
            raise QueueFull("queue_jobs_max", bounds.queue_jobs_max)
        size = self.queued_bytes[tenant] + len(submission.input)
        if bounds.queue_bytes_max is not None and size > bounds.queue_bytes_max:
            raise QueueFull("queue_bytes_max", bounds.queue_bytes_max)

    def is_at_share(self, submission: Submission) -> bool:
        """Return whether none of the tenant's jobs may start now."""
        most = self.bounds_of(submission).running_max
        return most is not None and self.running[submission.tenant] + self._reserved[submission.tenant] >= most

    def count_submission(self, tenant: str, now: float, *, operator: bool = False, known: bool = False) -> Quota | None:
        """Count one submission. Return what is left; None: it has no bound, or is `known`: it repeats an
        Idempotency-Key. Of these a tenant may send as many beside its others, so that a client which has lost an answer
        gets it, and one that asks without end does not stop others. Raise Refused: too_many_submissions.
        """
        rate = self.bounds(tenant, operator=operator).submissions_per_s
        if rate is None:
            return None
        counted = self._rates.get((tenant, known))
        if counted is None:
            counted = self._rates[tenant, known] = SubmissionRate(rate, now)
        left = counted.take(tenant, now, known=known)
        return None if known else left

    # ── what becomes of jobs ──

    def entered(self, job: Job) -> None:
        """Count a job that waits."""
        if not job.is_executor_task:
            self._add_queued(job, 1)

    def moved(self, job: Job, before: State) -> None:
        """Count a job's new state."""
        after, tenant = job.state, job.submission.tenant
        if before is State.QUEUED:
            self._add_queued(job, -1)
        if after is State.QUEUED:
            self._add_queued(job, 1)
        self._add(self.running, tenant, _has_worker(after) - _has_worker(before))

    def reserved(self, job: Job, number: int) -> None:
        """Count a worker that is kept for a job, or (-1) no longer."""
        self._add(self._reserved, job.submission.tenant, number)

    def _add_queued(self, job: Job, sign: int) -> None:
        submission = job.submission
        self._add(self.queued, submission.tenant, sign)
        self._add(self.queued_bytes, submission.tenant, sign * len(submission.input))

    @staticmethod
    def _add(counts: Counter[str], tenant: str, number: int) -> None:
        """Add to a count; one that is 0 is not kept."""
        if number:
            counts[tenant] += number
            if not counts[tenant]:
                del counts[tenant]

    # ── streams ──

    def stream_came(self, tenant: str, *, operator: bool = False) -> None:
        """Count one more open stream. Raise Refused: too_many_streams."""
        most = self.bounds(tenant, operator=operator).streams_max
        if most is not None and self.streams[tenant] >= most:
            raise Refused(
                f"tenant {tenant} has {most} open streams, its streams_max",
                code="too_many_streams",
                bound="streams_max",
                limit=most,
                tenant=tenant,
            )
        self.streams[tenant] += 1

    def stream_left(self, tenant: str) -> None:
        self._add(self.streams, tenant, -1)

    # ── reports ──

    def active(self) -> set[str]:
        """Return the tenants that have something now, or a table of their own."""
        return {*self._own, *self.queued, *self.running, *self.streams}


def _has_worker(state: State) -> bool:
    return state is not State.QUEUED and state not in TERMINAL


def _over(below: Mapping[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """Return members over those below, caps one by one; None removes a bound."""
    return {**below, **members, "caps": {**below.get("caps", {}), **members.get("caps", {})}}


def _settings(members: Mapping[str, Any]) -> TenantSettings:
    caps = {limit: cap for limit, cap in members["caps"].items() if cap is not None}
    return TenantSettings(**{**members, "caps": caps})
