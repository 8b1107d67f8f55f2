"""Dispatcher and supervisor report to the observer what happens to jobs. It counts and logs; nothing calls back.

Runs in: supervisor. `metrics` has what is counted, `job_log` what is logged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.models import Outcome, Submission, Verdict
from killable.supervisor.records import JobRecord
from killable.supervisor.telemetry import job_log
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.telemetry.job_watch import JobWatch
    from killable.supervisor.telemetry.metrics import Metrics


class Observer:
    """Each supervisor has one."""

    metrics: Metrics
    job_watch: JobWatch | None = None
    """Is told what changes of jobs while somebody reads the stream of jobs; None: nobody does."""

    def __init__(self) -> None:
        from killable.supervisor.telemetry.metrics import Metrics  # imports prometheus_client, which takes 20 ms

        self.metrics = Metrics()
        self.sse_clients = 0

    def on_start(self, clock: Clock) -> None:
        """Take the clock of the supervisor, which begins to work."""

    def on_types(self, types: Iterable[str]) -> None:
        """Take the names of all current job types."""
        self.metrics.on_types(types)

    def on_pool_changed(self) -> None:
        """Do nothing: pools are looked at when somebody asks for them."""

    def watch_by(self, job_watch: JobWatch | None) -> None:
        """Have this told of what changes, or nobody."""
        self.job_watch = job_watch

    # ── submission ──

    def on_submitted(self, job: Job) -> None:
        self.metrics.on_submitted()
        job_log.submitted(job)
        if self.job_watch is not None:
            self.job_watch.note(job)

    def on_replayed(self, record: JobRecord) -> None:
        self.metrics.on_replayed()
        job_log.replayed(record)

    def on_refused(self, submission: Submission, refused: Refused) -> None:
        self.metrics.on_refused(refused.code)
        job_log.refused(submission, refused)

    def on_key_forgotten(self) -> None:
        """Note that an idempotency key was forgotten before its time."""
        self.metrics.keys_forgotten += 1

    # ── until the end ──

    def on_left_queue(self, job: Job, now: float) -> None:
        """Note that a worker has the job, or that its time in the queue is over."""
        self.metrics.on_left_queue(job.type.name, now - job.queued, job.exemplar)

    def on_retrying(self, job: Job, outcome: Outcome, wait_s: float) -> None:
        """Note that an attempt has ended and another one of its job follows."""
        self.metrics.on_retrying(outcome, job.verdict, job.certificate or {}, tokens=job.log.tokens)
        job_log.retrying(job, outcome, wait_s)

    def on_entered(self, job: Job) -> None:
        assert job.started is not None and job.assigned is not None
        self.metrics.on_entered(job.type.name, job.started - job.assigned, job.exemplar)
        job_log.started(job)

    def on_first_token(self, job: Job, now: float) -> None:
        if job.started is not None:
            self.metrics.on_first_token(job.type.name, now - job.started, job.exemplar)

    def on_cancel_asked(self, job: Job, verdict: Verdict, grace_s: float | None) -> None:
        job_log.cancel_requested(job, verdict, grace_s)
        if self.job_watch is not None:  # a node tells of the stop later
            self.job_watch.note(job)

    def on_transition(self, job: Job, cause: Cause) -> None:
        """Note a transition; the log has those that go with a signal."""
        job_log.transition(job, cause)
        if self.job_watch is not None:
            self.job_watch.note(job)

    # ── the end ──

    def on_ended(self, job: Job) -> None:
        """Note that a job's outcome is stored. Called once per job, for any outcome."""
        outcome, certificate = job.outcome, job.certificate or {}
        assert outcome is not None and job.ended is not None
        ran_s = None if job.started is None else job.ended - job.started
        self.metrics.on_ended(
            job.type.name,
            outcome,
            job.verdict,
            certificate,
            ran_s=ran_s,
            tokens=job.log.tokens,
            tokens_left=_tokens_left(job),
            exemplar=job.exemplar,
        )
        self.metrics.ends.note(job.ended)
        self.metrics.genai.on_ended(job)
        job_log.ended(job, ran_s)
        if self.job_watch is not None:
            self.job_watch.note(job)

    def on_end_written(self, job: Job) -> None:
        """Note that a job's end is on disk, or why not (`durable`)."""
        if self.job_watch is not None:
            self.job_watch.note(job)

    def on_dropped(self, job: Job) -> None:
        """Note that a job is no longer kept."""
        if self.job_watch is not None:
            self.job_watch.note_gone(job)

    def on_slot_ready(self, job: Job, after_ms: float) -> None:
        """Take note that a job's slot has a worker again, so many ms after the request to end it, or its exit."""

    def on_recovered(self, after_s: float, pool: str) -> None:
        """Note that a warm worker of a pool has replaced one that ended with its attempt."""
        self.metrics.on_recovered(after_s, pool)


class Unobserved(Observer):
    """For an Executor, whose counts are never read: each future reports its own task. It saves 60 µs a task."""

    def __init__(self) -> None:
        self.sse_clients = 0

    def on_types(self, types: Iterable[str]) -> None: ...
    def on_submitted(self, job: Job) -> None: ...
    def on_refused(self, submission: Submission, refused: Refused) -> None: ...
    def on_key_forgotten(self) -> None: ...
    def on_left_queue(self, job: Job, now: float) -> None: ...
    def on_retrying(self, job: Job, outcome: Outcome, wait_s: float) -> None: ...
    def on_entered(self, job: Job) -> None: ...
    def on_first_token(self, job: Job, now: float) -> None: ...
    def on_cancel_asked(self, job: Job, verdict: Verdict, grace_s: float | None) -> None: ...
    def on_transition(self, job: Job, cause: Cause) -> None: ...
    def on_ended(self, job: Job) -> None: ...
    def on_end_written(self, job: Job) -> None: ...
    def on_dropped(self, job: Job) -> None: ...
    def on_recovered(self, after_s: float, pool: str) -> None: ...


TOKENS_MAX = 1 << 53
"""A job may announce any number; this is the largest that every reader of a metric accepts."""


def _tokens_left(job: Job) -> int:
    """Return how many announced tokens (`ctx.progress(done, total, "tokens")`) the job has not emitted."""
    progress = job.progress or {}
    done, total = progress.get("done"), progress.get("total")
    if progress.get("unit") not in ("token", "tokens") or not isinstance(total, int) or not isinstance(done, int):
        return 0
    return min(max(0, total - max(done, job.log.tokens)), TOKENS_MAX)
