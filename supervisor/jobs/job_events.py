"""The data of a job's first and last event and of those between two attempts, built once from the job's record.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from killable.supervisor.jobs.job import Job
from killable.supervisor.models import Outcome
from killable.workers.protocol.messages import dump_json

RESULT_INLINE_BYTES_MAX = 64 << 10
"""A larger value is replaced by its URL: an event has to fit into every client's line buffer."""


def note_start(job: Job) -> None:
    """Write the first event; not for a task of an Executor, which has no reader for it. That of a head's job is empty:
    it has the place of the head's own.
    """
    if not job.is_executor_task:
        job.log.append("started", b"{}" if job.is_of_head else started_data(job))


def note_retry(job: Job, outcome: Outcome, wait_s: float) -> None:
    """Write how an attempt has ended and that another one follows."""
    if not job.is_executor_task:
        job.log.append("retrying", retry_data(job, outcome, wait_s))


def note_restored(job: Job, lost: Outcome | None = None) -> None:
    """Write that the earlier events were lost with the server that held them; `lost`: so was the attempt that ran."""
    error = None if lost is None else lost.error_json()
    told = {"job_id": job.id, "attempt": job.attempts, "error": error, "first_id": len(job.log) + 1}
    job.log.append("restored", dump_json(told))


def note_end(job: Job) -> None:
    """Write the terminal event, unless a head does, and seal the log."""
    if not job.is_executor_task:
        assert job.outcome is not None
        if not job.is_of_head:
            job.log.append(job.outcome.state, terminal_data(job))
        job.log.seal()


def started_data(job: Job) -> bytes:
    node = {} if job.node is None else {"node": job.node}
    return dump_json(
        {
            "job_id": job.id,
            "type": job.type.name,
            "attempt": job.attempts,
            "worker_id": job.worker_id,
            "pid": job.pid,
            "started_at": job.started_at,
            "correlation_id": job.submission.correlation_id,
            **node,
        }
    )


def retry_data(job: Job, outcome: Outcome, wait_s: float) -> bytes:
    return dump_json(
        {
            "job_id": job.id,
            "attempt": job.attempts,
            "attempts_max": job.limits["attempts_max"],
            "wait_s": round(wait_s, 3),
            "first_id": len(job.log) + 1,
            "error": outcome.error_json(),
            "certificate": job.certificate,
        }
    )


def terminal_data(job: Job) -> bytes:
    """Return the terminal event's data. Values are JSON already, and are spliced in as they are."""
    outcome = job.outcome
    assert outcome is not None
    members = {
        "job_id": dump_json(job.id),
        "state": dump_json(outcome.state),
        "result": _value(job, job.result, "result"),
        "partial": _value(job, job.partial, "partial"),
        "error": dump_json(outcome.error_json()),
        "certificate": dump_json(job.certificate),
        "tokens": dump_json(job.log.tokens),
    }
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in members.items()) + b"}"


def _value(job: Job, value: bytes | None, name: str) -> bytes:
    if value is None:
        return b"null"
    if job.type.codec != "json" or len(value) > RESULT_INLINE_BYTES_MAX:
        return dump_json({"$ref": f"/v1/jobs/{job.id}/{name}"})
    return value
