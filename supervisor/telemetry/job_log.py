"""The records of jobs in the server's log: their names and fields.

Runs in: supervisor. The names are stable; fields are those of the record. A signal is logged after it was sent, so that
the log never delays a kill. `log_lines` writes records as lines.
"""

from __future__ import annotations

import logging
from typing import Any

from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import Cause
from killable.supervisor.models import PHASES, Outcome, Submission, Verdict
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused

logger = logging.getLogger("killable.jobs")

_SIGNALS = {Cause.STOP_REQUESTED: "term_sent", Cause.KILL_DUE: "kill_sent"}
_FACTS = ("signal", "exit_code", "oom")
"""The facts of an outcome that are logged. A traceback stays in the job's record."""


def submitted(job: Job) -> None:
    _log(logging.INFO, "submitted", job, tenant=job.submission.tenant, tags=job.submission.tags)


def replayed(record: JobRecord) -> None:
    logger.info("replayed", extra={"job_id": record.job_id, "type": record.type})


def refused(submission: Submission, why: Refused) -> None:
    fields = {"code": why.code, "error": why.message, "tenant": submission.tenant}
    logger.info("refused", extra=fields | _correlation(submission))


def retrying(job: Job, outcome: Outcome, wait_s: float) -> None:
    fields = {"code": outcome.code, "error": outcome.message, "wait_s": round(wait_s, 3)}
    _log(logging.WARNING, "retrying", job, **fields)


def started(job: Job) -> None:
    assert job.started is not None and job.assigned is not None
    waited_ms, start_ms = _ms(job.assigned - job.queued), _ms(job.started - job.assigned)
    _log(logging.INFO, "started", job, pid=job.pid, queue_wait_ms=waited_ms, start_ms=start_ms)


def cancel_requested(job: Job, verdict: Verdict, grace_s: float | None) -> None:
    """`grace_s`: the one that was asked for; None: the job's own."""
    grace_s = job.limits["grace_s"] if grace_s is None else grace_s
    _log(
        logging.INFO, "cancel_requested", job,
        by=verdict.by, key=verdict.key, reason=verdict.reason, grace_s=grace_s,
    )  # fmt: skip


def transition(job: Job, cause: Cause) -> None:
    """Log a transition that goes with a signal, and no other."""
    event = _SIGNALS.get(cause)
    if event is not None:
        verdict = job.verdict or Verdict("")
        grace_s = job.attempt.grace_s if job.attempt else None
        _log(logging.INFO, event, job, pid=job.pid, code=verdict.code, by=verdict.by, grace_s=grace_s)


def ended(job: Job, ran_s: float | None) -> None:
    """Log an outcome under the name of its state. `ran_s`: None if the job had not started."""
    outcome, certificate = job.outcome, job.certificate or {}
    assert outcome is not None
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


def _log(level: int, event: str, job: Job, **fields: Any) -> None:
    """Write one record; unknown fields are left out."""
    if logger.isEnabledFor(level):
        every = {
            "job_id": job.id,
            "type": job.type.name,
            "worker_id": job.worker_id,
            "node": job.node,
            "attempt": job.attempts or None,
            "trace_id": job.trace_id,
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
