"""The exit codes of the command `killable`, by error code.

Runs in: any machine. Those of a worker process are in `workers/exit_codes.py`.
"""

from __future__ import annotations

import signal
from enum import IntEnum

from killable.workers.errors import KillableError


class CommandExit(IntEnum):
    """Exit codes: sysexits(3) where it has one, timeout(1)'s 124, a shell's 130."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    UNKNOWN = 4
    REFUSED = 65
    UNREACHABLE = 69
    OS = 71
    NOT_NOW = 75
    UNAUTHORIZED = 77
    CONFIGURATION = 78
    TIMED_OUT = 124
    INTERRUPTED = 128 + signal.SIGINT


EXIT_CODES: dict[str, CommandExit] = {
    code: exit_code
    for exit_code, codes in {
        CommandExit.CANCELLED: ("cancelled",),
        CommandExit.UNKNOWN: (
            "unknown_job_type",
            "unknown_job",
            "unknown_worker",
            "unknown_node",
            "unknown_file",
            "not_found",
        ),
        CommandExit.REFUSED: (
            "input.invalid",
            "invalid",
            "limit_over_cap",
            "priority_over_max",
            "too_large",
            "files_off",
            "idempotency_conflict",
            "malformed",
            "header_too_large",
            "unsupported_media_type",
            "method_not_allowed",
            "misdirected",
        ),
        CommandExit.NOT_NOW: (
            "queue_full",
            "tenant_queue_full",
            "too_many_submissions",
            "too_many_streams",
            "draining",
            "deadline_unmeetable",
            "journal_failed",
            "files_full",
            "disk_full",
            "file_in_use",
            "slow_request",
            "busy",
            "too_many_connections",
        ),
        CommandExit.UNAUTHORIZED: (
            "unauthorized",
            "forbidden",
        ),
        CommandExit.TIMED_OUT: (
            "timeout.queue",
            "timeout.start",
            "timeout.first_token",
            "timeout.idle",
            "timeout.operation",
            "timeout.run",
        ),
    }.items()
    for code in codes
}
"""Exit codes by error code; any other error code is FAILED."""


def exit_code(error: KillableError) -> int:
    """Return the exit code of an error; 1 for an unknown error code."""
    # Read from the class: on the instance, `exit_code` may be a fact, the exit code of the job.
    own = getattr(type(error), "exit_code", None)
    if own is not None:
        return int(own)
    return EXIT_CODES.get(error.code, CommandExit.FAILED)
