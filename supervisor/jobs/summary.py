"""The short record of a job, for lists and the stream of jobs.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from typing import Any

from killable.supervisor.records import JobRecord

SHORT_JOB = (
    "job_id", "type", "state", "created_at", "started_at", "ended_at", "tags", "attempt", "worker_id", "pid", "tokens",
    "progress", "queue", "error", "durable", "node", "tenant",
)  # fmt: skip
"""The members of a job in a list."""


def summary_of(record: JobRecord) -> dict[str, Any]:
    """Return these members. The error has no traceback."""
    error = record.error and {name: record.error.get(name) for name in ("code", "message", "retryable")}
    return {name: getattr(record, name) for name in SHORT_JOB} | {"error": error}
