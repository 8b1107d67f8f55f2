"""Every code of an ending or a refusal: its state, whether it is worth repeating, its title.

Runs in: any (standard library only, so that a client machine needs no supervisor).
"""

from __future__ import annotations

from killable.workers.named_tuples import NamedTuple


class CodeRow(NamedTuple):
    """The meaning of one code. `api.http.statuses` has its HTTP status, `api.cli.display.exit_codes` its exit code."""

    state: str | None
    """The terminal state of a job with this code; None for a refusal, which never becomes a job."""
    retryable: bool
    """Whether the same request may succeed later."""
    title: str


def _ending(state: str, title: str, retryable: bool = False) -> CodeRow:
    return CodeRow(state, retryable, title)


def _refusal(title: str, retryable: bool = False) -> CodeRow:
    return CodeRow(None, retryable, title)


CODES: dict[str, CodeRow] = {
    # endings of a job
    "cancelled": _ending("cancelled", "The job was cancelled"),
    "timeout.queue": _ending("timed_out", "The job waited too long in the queue", True),
    "timeout.start": _ending("timed_out", "The job did not start in time", True),
    "timeout.first_token": _ending("timed_out", "The job's first token was not emitted in time"),
    "timeout.idle": _ending("timed_out", "The job stopped producing tokens"),
    "timeout.operation": _ending("timed_out", "An operation of the job took too long"),
    "timeout.run": _ending("timed_out", "The job ran too long"),
    "limit.cpu": _ending("failed", "The job reached its processor time limit"),
    "limit.memory": _ending("failed", "The job reached its memory limit"),
    "limit.output": _ending("failed", "The job's output reached its limit"),
    "limit.tmp": _ending("failed", "The job reached its limit of temporary files"),
    "limit.processes": _ending("failed", "The job reached its limit of processes"),
    "limit.threads": _ending("failed", "The job reached its limit of threads"),
    "limit.files": _ending("failed", "The job reached its limit of open files"),
    "exception": _ending("failed", "The job raised an exception"),
    "input.invalid": _ending("failed", "The job's input does not fit its type"),
    "exit": _ending("failed", "The job ended its own process"),
    "crash": _ending("failed", "The job's process crashed"),
    "killed_externally": _ending("failed", "The job's process was killed from outside", True),
    "protocol": _ending("failed", "The job's process violated the protocol"),
    "result.unserializable": _ending("failed", "A value of the job could not be serialized"),
    "spawn": _ending("failed", "The job's process could not be started", True),
    "worker_lost": _ending("failed", "The job's process was lost", True),
    "supervisor_lost": _ending("failed", "The supervisor of the job was lost", True),
    "node_lost": _ending("failed", "The machine of the job was lost", True),
    "node_drained": _ending("failed", "The machine of the job was taken out of use", True),
    "unkillable": _ending("failed", "The job's process still exists after SIGKILL"),
    # refusals at submission
    "queue_full": _refusal("The queue is full", True),
    "tenant_queue_full": _refusal("The tenant's share of the queue is full", True),
    "too_many_submissions": _refusal("The tenant submits too many jobs a second", True),
    "too_many_streams": _refusal("The tenant has too many open streams", True),
    "priority_over_max": _refusal("The priority exceeds the tenant's highest"),
    "invalid": _refusal("The request is not valid"),
    "limit_over_cap": _refusal("A limit exceeds its cap"),
    "unknown_job_type": _refusal("There is no such job type"),
    "draining": _refusal("The server accepts no new jobs", True),
    "deadline_unmeetable": _refusal("The job could not start before its deadline", True),
    "reload_failed": _refusal("The code could not be loaded anew"),
    "journal_failed": _refusal("The job could not be written to the journal", True),
    "too_large": _refusal("The request is too large"),
    "files_full": _refusal("There is no room for another file", True),
    "disk_full": _refusal("The file cannot be written", True),
    "files_off": _refusal("The server keeps no files"),
    "file_in_use": _refusal("A job uses the file", True),
    "unknown_file": _refusal("There is no such file"),
    "unauthorized": _refusal("A valid API key is needed"),
    "forbidden": _refusal("This is not allowed"),
    "idempotency_conflict": _refusal("The idempotency key was used for another request"),
    # on an existing job or worker
    "already_ended": _refusal("The job has already ended"),
    "no_result": _refusal("The job has no result"),
    "unknown_job": _refusal("There is no such job"),
    "unknown_worker": _refusal("There is no such worker"),
    "unknown_node": _refusal("There is no such node"),
    # on a request
    "malformed": _refusal("The request cannot be parsed"),
    "slow_request": _refusal("The request did not arrive in time", True),
    "header_too_large": _refusal("The request's header is too large"),
    "busy": _refusal("The server is busy with other requests", True),
    "too_many_connections": _refusal("The server has too many connections", True),
    "not_found": _refusal("There is no resource at this address"),
    "unsupported_media_type": _refusal("The content type is not supported"),
    "method_not_allowed": _refusal("The method is not allowed here"),
    "misdirected": _refusal("The request is for a host that this server does not serve"),
    "internal": _refusal("The server had an internal error"),
}

LOST = frozenset({"supervisor_lost", "node_lost"})
"""Codes of jobs whose ending no supervisor observed: only their records remain."""
