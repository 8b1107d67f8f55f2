"""Every record of the log: its name, level, meaning and fields. Names are stable: programs search them.

Runs in: any process. Pure. docs/reference/log.md is made from it, `tests/contract/test_log_vocabulary.py` compares it
with the source.
"""

from __future__ import annotations

import uuid
from typing import Literal

from killable.workers.named_tuples import NamedTuple

Level = Literal["debug", "info", "warning", "error", "critical"]


class LogEvent(NamedTuple):
    """One record of the log."""

    part: str
    """Of the page, after the thing that the record is about."""
    levels: tuple[Level, ...]
    about: str
    fields: tuple[str, ...]
    """All that it may have; unknown ones are left out."""
    is_sampled: bool
    """Whether `log_burst` bounds it: it comes with each request or job, and none of an end that was not meant."""

    @property
    def logger(self) -> str:
        return f"killable.{self.part}"


OF_JOBS = ("job_id", "type", "worker_id", "node", "attempt", "correlation_id")
OF_ENDS = (
    "code", "error", "by", "key", "reason", "signal", "exit_code", "oom", "ran_s", "tokens",
    "term_sent_ms", "delivered_ms", "acknowledged_ms", "kill_sent_ms", "exited_ms", "reaped_ms", "tree_empty_ms",
    "slot_ready_ms", "unproven",
)  # fmt: skip


def _event(
    part: str, levels: str, about: str, fields: str = "", *, job: bool = False, sampled: bool = False
) -> LogEvent:
    every = (*(OF_JOBS if job else ()), *fields.split())
    return LogEvent(part, tuple(levels.split()), about, every, sampled)  # type: ignore[arg-type]


def _job(about: str, fields: str = "", levels: str = "info", *, sampled: bool = False) -> LogEvent:
    return _event("jobs", levels, about, fields, job=True, sampled=sampled)


_ENDS = " ".join(OF_ENDS)
EVENTS: dict[str, LogEvent] = {
    # ── the server ──
    "serving": _event("server", "info", "It listens. Only in JSON; else the same is printed for people.",
        "url pid version instance_id pools job_types keys operator_socket"),
    "not_started": _event("server", "error", "It does not start, or cannot go on: why, and what helps.",
        "code error hint exit_code"),
    "draining_for": _event("server", "info", "It was told to stop, and running jobs may end.", "jobs drain_s"),
    "ending_jobs": _event("server", "info", "It ends the jobs that are left.", "jobs detail"),
    "stderr": _event("server", "warning", "A line that a library or a module wrote to stderr by itself.", "detail",
        sampled=True),
    "uncaught": _event("server", "error", "An exception that nothing has caught: a fault of killable or of a library.",
        "thread"),
    "left_out": _event("log", "warning", "So many further records of this name were left out (`log_burst`).",
        "name_left_out number period_s"),
    "records_dropped": _event("log", "warning",
        "stderr or the journal took nothing for too long, or could not be written.", "dropped"),
    "connections_max_lowered": _event("server", "warning", "The limit of open files allows no more connections.",
        "from to open_files_max"),
    "accept_paused": _event("server", "warning", "No connection can be accepted.", "error attempts"),
    "readers_dropped": _event("server", "warning", "At the end, readers that did not read were disconnected.",
        "number"),
    "reader_disconnected": _event("server", "warning", "A reader of a stream or file read nothing for too long.",
        "job_id file_id after_s", sampled=True),
    "file_shortened": _event("server", "warning", "A job cut a file while it was sent; its reader was disconnected.",
        "job_id file_id", sampled=True),
    "record_dropped": _event("server", "info", "A job's record was dropped while its stream was read.", "job_id",
        sampled=True),
    "operator_refused": _event("server", "warning", "Another user connected to the operators' socket.", "uid",
        sampled=True),
    "mcp_failed": _event("server", "error", "A fault while a request of MCP was answered.", "method"),
    "audit_log_failed": _event("server", "error", "The audit log cannot be written.", "path error"),
    "audit_log_goes_on": _event("server", "warning", "The audit log can be written again.", "path lost"),
    "file_set_aside": _event("server", "error", "An upload of another release is left alone.", "path detail"),
    "keys_reloaded": _event("server", "info", "The keys were read again.", "keys came gone"),
    "keys_not_reloaded": _event("server", "info error", "The keys stay as they are.", "error"),
    "keys_in_clear_text": _event("server", "warning", "Who reads the file of keys has these.", "names advice"),
    "tenants_without_key": _event("server", "warning", "Tables of tenants that bound nobody.", "names advice"),
    "webhook_secrets_reloaded": _event("server", "info", "The secrets of webhooks were read again.", "tenants"),
    "webhook_secrets_not_reloaded": _event("server", "error", "The secrets of webhooks stay as they are.", "error"),
    "not_reloaded": _event("server", "error", "What SIGHUP asks for was not done.", "error"),
    "pools_not_reloaded": _event("server", "error", "New code was not taken over.", "error"),
    "code_changed": _event("server", "warning", "Files of job types are others than those that run.", "files advice"),
    "settings_changed": _event("server", "warning", "killable.toml is another than the one in force.", "path advice"),
    "manager_unknown": _event("server", "warning", "NOTIFY_SOCKET is no Unix socket.", "detail"),
    "manager_not_told": _event("server", "warning", "The service manager cannot be reached.", "path detail"),
    # ── jobs ──
    "submitted": _job("Accepted.", "tenant tags", sampled=True),
    "replayed": _event("jobs", "info", "A submission was answered by its Idempotency-Key.", "job_id type",
        sampled=True),
    "refused": _event("jobs", "info", "A submission was refused.", "code error tenant correlation_id", sampled=True),
    "started": _job("Its function was entered.", "pid queue_wait_ms start_ms", sampled=True),
    "retrying": _job("An attempt failed, and another one follows.", "code error wait_s", "warning"),
    "cancel_requested": _job("Somebody, or a deadline, asked for its end.", "by key reason grace_s"),
    "term_sent": _job("SIGTERM was sent.", "pid code by grace_s"),
    "kill_sent": _job("SIGKILL was sent.", "pid code by grace_s"),
    "completed": _job("It returned.", _ENDS, "info error", sampled=True),
    "failed": _job("It failed. An error only if its processes may be left.", _ENDS, "info error"),
    "cancelled": _job("It was cancelled.", _ENDS, "info error"),
    "timed_out": _job("A deadline ended it.", _ENDS, "info error"),
    "draining": _event("jobs", "warning", "New jobs are refused.", "deadline_s active"),
    "drain_ended": _event("jobs", "warning", "New jobs are taken again."),
    "shutdown_requested": _event("jobs", "warning", "The server was told to stop.", "reason deadline_s"),
    "idempotency_keys_forgotten": _event("jobs", "warning", "Keys are forgotten before their time.", "tenant detail"),
    # ── pools ──
    "pool_ready": _event("pool", "info", "A pool has imported its modules.", "pool start_method"),
    "pool_broken": _event("pool", "error", "A pool starts no worker.", "pool detail"),
    "pools_reloaded": _event("pool", "info", "New code is in force.", "took_s files came gone changed jobs_failed"),
    "reload_failed": _event("pool", "error", "New code does not load; the code from before goes on.", "detail"),
    "start_method_changed": _event("pool", "warning", "A preload left threads, so workers are exec'd.",
        "pool threads start_method detail"),
    "worker_started": _event("pool", "debug", "A worker was forked.", "pool worker_id"),
    "worker_failed": _event("pool", "warning", "A worker did not start.", "pool detail"),
    "worker_retired": _event("pool", "info", "A worker takes no further job.", "pool worker_id detail", sampled=True),
    "worker_gone": _event("pool", "debug", "A worker's process has ended.", "pool worker_id"),
    "slot_quarantined": _event("pool", "error", "SIGKILL does not end a worker.", "pool worker_id pid"),
    "zygote_gone": _event("pool", "error", "The process that forks a pool's workers has ended.", "pool ending"),
    # ── journal ──
    "restored": _event("journal", "info", "The jobs of the journal are back.", "ended lost waiting running path"),
    "journal_failed": _event("journal", "error", "It cannot be written: nothing is accepted, nothing starts.",
        "detail path"),
    "journal_works": _event("journal", "warning", "It can be written again.", "path"),
    "journal_left": _event("journal", "error", "At the end something was not written.", "detail path"),
    "journal_row_set_aside": _event("journal", "error", "A row is damaged; its job is lost.", "job_id detail path"),
    "journal_drain_lost": _event("journal", "error", "The row of a node's drain is damaged.", "node path"),
    "journal_epoch_lost": _event("journal", "error", "The row of a cluster's epoch is damaged.", "path"),
    "journal_mode_set": _event("journal", "warning", "Others had access to the file.", "path detail"),
    # ── what was left behind ──
    "swept": _event("system", "warning", "What a dead server had left was ended or removed.",
        "pid command cookie cgroup folder"),
    "not_swept": _event("system", "error", "A process of a dead server does not end.", "pid command cookie"),
    "sweep_failed": _event("system", "error", "It is unknown whether anything was left.", "detail"),
    "sweep_goes_on": _event("system", "error", "The search for what was left takes long.", "detail"),
    "memory_not_removed": _event("system", "error", "A job's shared memory is left.", "detail"),
    "work_aside_failed": _event("system", "error", "A fault in a thread beside the event loop."),
    # ── webhooks ──
    "webhook_delivered": _event("webhooks", "info", "It was taken.", "job_id attempts host", sampled=True),
    "webhook_failed": _event("webhooks", "warning", "It was not taken, and is sent again.",
        "job_id tenant host detail attempts wait_s", sampled=True),
    "webhook_given_up": _event("webhooks", "error", "It is not sent again.", "job_id tenant host detail attempts"),
    "webhooks_left": _event("webhooks", "warning", "At the end these were not sent.", "number"),
    # ── clusters ──
    "node_live": _event("cluster", "info", "A node answers.", "node detail"),
    "node_joining": _event("cluster", "info", "A node is being started.", "node detail"),
    "node_suspect": _event("cluster", "warning", "A node does not answer.", "node detail"),
    "node_lost": _event("cluster", "warning", "A node is lost, and its jobs with it.", "node detail"),
    "node_refused": _event("cluster", "warning", "A node does not fit this server.", "node detail"),
    "node_released": _event("cluster", "warning", "A node was given back.", "node detail"),
    "node_detail": _event("cluster", "info", "Why a node is as it is.", "node detail"),
    "node_draining": _event("cluster", "warning", "A node gets no new jobs.", "node detail deadline_s"),
    "node_undrained": _event("cluster", "warning", "A node gets jobs again.", "node detail"),
    "node_not_told": _event("cluster", "warning", "A node did not hear that the server ends.", "node"),
    "node_broken": _event("cluster", "error", "A fault while a node's word was taken.", "node job_id detail"),
    "node_link_failed": _event("cluster", "error", "A fault of the connection to a node.", "node"),
    "order_failed": _event("cluster", "error", "A fault: an order cannot be sent to its node.", "node"),
    "epoch_not_written": _event("cluster", "error", "The journal does not take the epoch of this head.", "detail"),
    "run_failed": _event("node", "error", "This node cannot begin a run.", "job_id"),
    "node_ready": _event("node", "info", "This node has started.", "incarnation"),
    "node_ends": _event("node", "warning", "This node ends all that it has.", "detail attempts"),
    "node_call_failed": _event("node", "error", "A fault in the answer of this node.", "detail"),
    "members_unknown": _event("cluster", "warning", "Ray does not tell which machines there are.", "detail"),
    "deposed": _event("cluster", "error", "Another server has taken the nodes over.", "detail"),
    "ray_says": _event("cluster", "warning", "A line of Ray.", "detail", sampled=True),
    # ── traces and metrics by OTLP ──
    "telemetry_setting": _event("telemetry", "warning", "A setting of OpenTelemetry that is not known.", "detail"),
    "traces_cannot_be_sent": _event("telemetry", "warning", "The collector does not take traces.", "endpoint"),
    "traces_are_sent_again": _event("telemetry", "info", "It takes them again.", "endpoint"),
    "traces_not_sent": _event("telemetry", "debug", "Why a batch was not taken, with the stack."),
    "trace_not_built": _event("telemetry", "error", "A trace could not be made: a fault of killable's."),
    "traces_lost": _event("telemetry", "warning", "What was left at the end of the server.", "number endpoint"),
    "metrics_cannot_be_sent": _event("telemetry", "warning", "The collector does not take metrics.", "endpoint"),
    "metrics_are_sent_again": _event("telemetry", "info", "It takes them again.", "endpoint"),
    "metrics_not_sent": _event("telemetry", "debug", "Why they were not taken, with the stack."),
    "driver_started": _event("cluster", "info", "The process that talks to Ray has started.", "pid"),
    "driver_ended": _event("cluster", "warning", "The process that talks to Ray has ended.", "detail"),
    "driver_failed": _event("cluster", "error", "A fault in the process that talks to Ray.", "detail"),
    "driver_not_closed": _event("cluster", "warning", "Ray could not be left in order.", "detail"),
    # ── in a program ──
    "executor_lost": _event("executor", "error", "An Executor's supervisor has failed."),
    "relay_failed": _event("executor", "error", "What calls print can no longer be shown."),
    "waiting_at_exit": _event("executor", "info", "The program waits for calls.", "tasks interrupts"),
}  # fmt: skip

PARTS: dict[str, str] = {
    "server": "The server",
    "log": "The log itself",
    "jobs": "Jobs",
    "pool": "Pools and workers",
    "journal": "The journal",
    "system": "What was left behind",
    "webhooks": "Webhooks",
    "telemetry": "Traces and metrics by OTLP",
    "cluster": "Machines of a cluster",
    "node": "On a machine of a cluster",
    "executor": "In a program",
}
"""The last part of the logger's name, and the heading on the page."""

FIELDS: dict[str, str] = {
    "acknowledged_ms": "milliseconds until the job acknowledged the stop",
    "active": "jobs that wait or run",
    "advice": "what to do",
    "after_s": "seconds without a read",
    "attempt": "number of the run, from 1",
    "attempts": "how often it was tried; of `node_ends`: runs that it had",
    "by": "who or what asked: `user`, `deadline`, `shutdown`, ...",
    "came": "names that are new",
    "cgroup": "control group that was removed",
    "changed": "job types whose settings are others now",
    "code": "[error code](codes.md)",
    "command": "command line, cut",
    "cookie": "the environment marker of a dead server's process",
    "correlation_id": "`X-Correlation-Id` of the request",
    "delivered_ms": "milliseconds until the job had the signal",
    "deadline_s": "seconds until what is left is cancelled",
    "detail": "the cause in words",
    "drain_s": "seconds in which jobs may end by themselves",
    "dropped": "records that were lost",
    "ended": "jobs that had ended",
    "ending": "how the process ended",
    "endpoint": "address that traces or metrics are sent to",
    "error": "the message",
    "exit_code": "of the process; of `not_started`: of the server",
    "exited_ms": "milliseconds until the process had ended",
    "file_id": "an uploaded file",
    "files": "names of source files",
    "folder": "temporary folder that was removed",
    "from": "the value before",
    "gone": "names that are gone",
    "grace_s": "seconds between SIGTERM and SIGKILL",
    "hint": "what helps",
    "host": "the other side's name",
    "incarnation": "id of a node's run",
    "instance_id": "id of this run of the server",
    "interrupts": "how often Ctrl-C was pressed",
    "job_id": "the job",
    "job_types": "job types with their limits",
    "jobs": "how many",
    "jobs_failed": "jobs that waited for a type that is gone",
    "key": "name of the API key",
    "keys": "how many, or names with roles",
    "kill_sent_ms": "milliseconds until SIGKILL was sent",
    "lost": "how many were lost",
    "method": "of MCP",
    "name_left_out": "event that was left out",
    "names": "names, with spaces between",
    "node": "machine of a cluster",
    "number": "how many",
    "oom": "whether the kernel killed it for memory",
    "open_files_max": "limit of open files",
    "operator_socket": "path of the operators' socket",
    "path": "file or socket",
    "period_s": "in how many seconds",
    "pid": "process id",
    "pool": "pool",
    "pools": "pools with their states",
    "queue_wait_ms": "milliseconds in the queue",
    "ran_s": "seconds since its function was entered",
    "reaped_ms": "milliseconds until the process was reaped",
    "reason": "of the client that asked",
    "running": "jobs that nodes still run",
    "signal": "that ended the process",
    "slot_ready_ms": "milliseconds until another worker could take a job",
    "start_method": "`fork` or `spawn`",
    "start_ms": "milliseconds from a worker to the function's begin",
    "tags": "of the submission",
    "tasks": "calls that are not over",
    "tenant": "whose job it is",
    "tenants": "how many",
    "term_sent_ms": "milliseconds until SIGTERM was sent",
    "thread": "its name",
    "threads": "how many",
    "to": "the value now",
    "tokens": "how many were streamed",
    "took_s": "seconds",
    "tree_empty_ms": "milliseconds until nothing of the job was left",
    "type": "job type",
    "uid": "user id",
    "unproven": "what could not be shown about the end",
    "url": "address of the server",
    "version": "of killable",
    "wait_s": "seconds until the next attempt",
    "waiting": "jobs that wait",
    "worker_id": "worker",
}

_MESSAGE_IDS = uuid.UUID("6b0d3f1e-6a53-4c0e-9d43-5b7f4a4f0c11")
"""The namespace of MESSAGE_ID in journald: an id follows from the name, so that it stays as the name does."""


def message_id(event: str) -> str:
    """Return MESSAGE_ID of an event, 32 hexadecimal digits (systemd.journal-fields(7))."""
    return uuid.uuid5(_MESSAGE_IDS, event).hex
