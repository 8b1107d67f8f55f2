"""The typed errors and their codes: one table, shared by worker, supervisor, HTTP, client and command.

Runs in: any (standard library only, so that a client machine needs no supervisor).

Cause and mechanism are separate: `code` is why a job ended, the facts (`exit_code`, `signal`, ...) are how.
Nothing in this project decides by matching a message text.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

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


class KillableError(Exception):
    """Base of the errors that this library raises on purpose.

    `code` is stable, lower-case and dotted; `facts` are the typed details. It has no slots, which conflict with the
    layout of TimeoutError, and has a `__reduce__`, since default pickling loses keyword arguments.
    """

    code: str = "internal"

    def __init__(self, message: str = "", *, code: str | None = None, **facts: Any) -> None:
        title = CODES[code or self.code].title if (code or self.code) in CODES else str(code)
        super().__init__(message or title)
        if code is not None:
            self.code = code
        self.facts = facts

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def retryable(self) -> bool:
        row = CODES.get(self.code)  # None: a code of a newer server
        return row is not None and row.retryable

    def __str__(self) -> str:
        # OSError's own __str__ (JobTimedOut is a TimeoutError) would ignore a single argument only by luck.
        return self.message

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        notes = getattr(self, "__notes__", [])
        return _rebuild, (type(self), self.message, self.code, self.facts), {"__notes__": notes} if notes else None


def _rebuild(cls: type[KillableError], message: str, code: str, facts: dict[str, Any]) -> KillableError:
    return cls(message, code=code, **facts)


class Refused(KillableError):
    """A request was refused; nothing was started and nothing changed.

    Except if the fact `is_accepted` is "unknown": the supervisor closed while its disk hung, and may have journaled it.
    """

    code = "invalid"


class JobError(KillableError):
    """A job ended without completing; base of the classes below.

    Facts that are always present: `job_id`, `certificate` (a mapping or None), and `partial` for a server's job (for an
    Executor's task the future has it).
    """

    code = "exception"


class JobCancelled(JobError, concurrent.futures.CancelledError):
    """The job was cancelled: `by` is user, client_gone, operator or shutdown."""

    code = "cancelled"


class JobTimedOut(JobError, TimeoutError):
    """A deadline of the job passed; `code` names the deadline."""

    code = "timeout.run"


class JobFailed(JobError):
    """The job itself caused its failure: an exception, an exit, a limit."""

    code = "exception"


class OutOfMemory(JobFailed, MemoryError):
    """The job reached its `memory_bytes`, or a MemoryError ended it."""

    code = "limit.memory"


LOST = frozenset({"supervisor_lost", "node_lost"})
"""Codes of jobs whose ending no supervisor observed: only their records remain."""
