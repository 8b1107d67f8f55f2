"""Counts and logs what happens to jobs. The dispatcher and the supervisor call it; nothing here calls back.

Runs in: supervisor. The names of events are stable; their fields are those of the record. A signal is logged after it
was sent, so that the log never delays a kill.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.models import PHASES, JobRecord, Outcome, Submission, Verdict
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.supervisor.telemetry.metrics import Metrics

logger = logging.getLogger("killable.jobs")

_SIGNALS = {Cause.STOP_REQUESTED: "term_sent", Cause.KILL_DUE: "kill_sent"}
_FACTS = ("signal", "exit_code", "oom")
"""The facts of an outcome that are logged. A traceback stays in the job's record."""


class Observer:
    """Each supervisor has one."""

    metrics: Metrics

    def __init__(self) -> None:
        from killable.supervisor.telemetry.metrics import Metrics  # imports prometheus_client, which takes 20 ms

        self.metrics = Metrics()
        self.sse_clients = 0

    def on_types(self, types: Iterable[str]) -> None:
        """Take the names of all current job types."""
        self.metrics.on_types(types)

    # ── submission ──

    def on_submitted(self, job: Job) -> None:
        self.metrics.on_submitted()
        _log(logging.INFO, "submitted", job, tenant=job.submission.tenant, tags=job.submission.tags)

    def on_replayed(self, record: JobRecord) -> None:
        self.metrics.on_replayed()
        logger.info("replayed", extra={"job_id": record.job_id, "type": record.type})

    def on_refused(self, submission: Submission, refused: Refused) -> None:
        self.metrics.on_refused(refused.code)
        fields = {"code": refused.code, "error": refused.message, "tenant": submission.tenant}
        logger.info("refused", extra=fields | _correlation(submission))

    def on_key_forgotten(self) -> None:
        """Note that an idempotency key was forgotten before its time."""
        self.metrics.keys_forgotten += 1

    # ── until the end ──

    def on_left_queue(self, job: Job, now: float) -> None:
        """Note that a worker has the job, or that its time in the queue is over."""
        self.metrics.on_left_queue(job.type.name, now - job.queued)

    def on_retrying(self, job: Job, outcome: Outcome, wait_s: float) -> None:
        """Note that an attempt has ended and another one of its job follows."""
        self.metrics.on_retrying(outcome, job.verdict, job.certificate or {})
        fields = {"code": outcome.code, "error": outcome.message, "wait_s": round(wait_s, 3)}
        _log(logging.WARNING, "retrying", job, **fields)

    def on_entered(self, job: Job) -> None:
        assert job.started is not None and job.assigned is not None
        start_s = job.started - job.assigned
        self.metrics.on_entered(job.type.name, start_s)
        waited_ms, start_ms = _ms(job.assigned - job.queued), _ms(start_s)
        _log(logging.INFO, "started", job, pid=job.pid, queue_wait_ms=waited_ms, start_ms=start_ms)

    def on_first_token(self, job: Job, now: float) -> None:
        if job.started is not None:
            self.metrics.on_first_token(job.type.name, now - job.started)

    def on_cancel_asked(self, job: Job, verdict: Verdict, grace_s: float | None) -> None:
        grace_s = job.limits["grace_s"] if grace_s is None else grace_s
        _log(
            logging.INFO, "cancel_requested", job,
            by=verdict.by, key=verdict.key, reason=verdict.reason, grace_s=grace_s,
        )  # fmt: skip

    def on_transition(self, job: Job, cause: Cause) -> None:
        """Log a transition that goes with a signal, and no other."""
        event = _SIGNALS.get(cause)
        if event is not None:
            verdict = job.verdict or Verdict("")
            grace_s = job.attempt.grace_s if job.attempt else None
            _log(logging.INFO, event, job, pid=job.pid, code=verdict.code, by=verdict.by, grace_s=grace_s)

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
        )
        fields: dict[str, Any] = {"code": outcome.code, "error": outcome.message}
        if job.verdict is not None:
            fields |= {"by": job.verdict.by, "key": job.verdict.key, "reason": job.verdict.reason}
        fields |= {name: outcome.facts.get(name) for name in _FACTS}
        fields["ran_s"] = None if ran_s is None else round(ran_s, 3)
        fields["tokens"] = job.log.tokens
        fields |= {f"{phase}_ms": certificate.get(phase) for phase in PHASES}
        fields["unproven"] = certificate.get("unproven")
        # A failed job is not an error of the server; a process that cannot be killed, or may be left, is.
        _log(
            logging.ERROR if outcome.code == "unkillable" or "unproven" in certificate else logging.INFO,
            outcome.state,
            job,
            **fields,
        )

    def on_slot_ready(self, job: Job, after_ms: float) -> None:
        """Take note that a job's slot has a worker again, so many ms after the request to end it, or its exit."""

    def on_recovered(self, after_s: float) -> None:
        """Note that a warm worker has replaced one that ended with its attempt."""
        self.metrics.on_recovered(after_s)


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
    def on_recovered(self, after_s: float) -> None: ...


def _log(level: int, event: str, job: Job, **fields: Any) -> None:
    """Write one record; unknown fields are left out."""
    if logger.isEnabledFor(level):
        every = {
            "job_id": job.id,
            "type": job.type.name,
            "worker_id": job.worker_id,
            "node": job.node,
            "attempt": job.attempts or None,
            **_correlation(job.submission),
            **fields,
        }
        known = {name: value for name, value in every.items() if value not in (None, "", {})}
        # Not `logger.log`, which searches the stack for its caller: of no use here, and it takes 10 µs.
        logger.handle(logger.makeRecord(logger.name, level, __file__, 0, event, (), None, extra=known))


def _correlation(submission: Submission) -> dict[str, str]:
    return {"correlation_id": submission.correlation_id} if submission.correlation_id else {}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


TOKENS_MAX = 1 << 53
"""A job may announce any number; this is the largest that every reader of a metric accepts."""


def _tokens_left(job: Job) -> int:
    """Return how many announced tokens (`ctx.progress(done, total, "tokens")`) the job has not emitted."""
    progress = job.progress or {}
    done, total = progress.get("done"), progress.get("total")
    if progress.get("unit") not in ("token", "tokens") or not isinstance(total, int) or not isinstance(done, int):
        return 0
    return min(max(0, total - max(done, job.log.tokens)), TOKENS_MAX)
