"""The HTTP status of an answer with each error code (RFC 9110).

Runs in: api.
"""

from __future__ import annotations

_CODES: dict[int, tuple[str, ...]] = {
    400: ("malformed",),
    401: ("unauthorized",),
    403: ("forbidden",),
    404: (
        "unknown_job_type",
        "unknown_job",
        "unknown_worker",
        "unknown_node",
        "unknown_file",
        "files_off",
        "not_found",
    ),
    405: ("method_not_allowed",),
    408: ("slow_request",),
    409: (
        "cancelled",
        "already_ended",
        "no_result",
        "reload_failed",
        "file_in_use",
    ),
    413: ("too_large", "files_full"),
    415: ("unsupported_media_type",),
    421: ("misdirected",),
    422: (
        "input.invalid",
        "invalid",
        "limit_over_cap",
        "priority_over_max",
        "idempotency_conflict",
    ),
    429: (
        "queue_full",
        "tenant_queue_full",
        "too_many_submissions",
        "too_many_streams",
        "deadline_unmeetable",
    ),
    431: ("header_too_large",),
    500: (
        "limit.cpu",
        "limit.memory",
        "limit.output",
        "limit.processes",
        "limit.tmp",
        "limit.threads",
        "limit.files",
        "exception",
        "exit",
        "crash",
        "protocol",
        "result.unserializable",
        "unkillable",
        "internal",
    ),
    503: (
        "killed_externally",
        "spawn",
        "worker_lost",
        "supervisor_lost",
        "node_lost",
        "node_drained",
        "draining",
        "journal_failed",
        "busy",
        "too_many_connections",
    ),
    507: ("disk_full",),
    504: (
        "timeout.queue",
        "timeout.start",
        "timeout.first_token",
        "timeout.idle",
        "timeout.operation",
        "timeout.run",
    ),
}

STATUSES: dict[str, int] = {code: status for status, codes in _CODES.items() for code in codes}
