"""The hint below an error of the command: what its reader can do about it.

Runs in: any machine. Pure. `remedies` has the setting that would have changed how a job ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.api.explanation import spelling
from killable.api.explanation.remedies import limit_of
from killable.workers.errors import JobError, KillableError

_HINTS = {
    "timeout.queue": "all workers were busy: raise pools.NAME.workers, or queue_s with submit --queue-s",
    "timeout.start": "the worker was not ready in time: see killable inspect, or raise start_s with submit --start-s",
    "limit_over_cap": "the operator sets the caps, in [caps] and [jobs.NAME.caps] of killable.toml",
    "queue_full": "try again in a moment, or raise server.queue_jobs_max",
    "tenant_queue_full": "try again in a moment; the operator sets the shares, in [tenants.NAME] of killable.toml",
    "too_many_submissions": "try again in a moment; the operator sets the rate, in [tenants.NAME] of killable.toml",
    "too_many_streams": "close a stream; the operator sets their number, in [tenants.NAME] of killable.toml",
    "priority_over_max": "the operator sets the highest priority, in [tenants.NAME] of killable.toml",
    "journal_failed": "the server's disk is full or failing; its log and /readyz have details",
    "files_full": "delete what is not needed (DELETE /v1/files/ID), or raise server.files_bytes_max or files_max",
    "disk_full": "server.files_folder may be on another disk",
    "draining": "accepted jobs continue; killable drain --off ends a drain",
    "unknown_job": "killable ps -a lists the jobs that the server still keeps",
    "unknown_worker": "killable workers lists the workers",
    "unknown_node": "killable nodes lists the nodes",
    "spawn": "killable doctor checks this machine; the server's log has details",
    "unkillable": "a process in uninterruptible sleep (state D): a hung disk or network file system is the usual cause",
    "unauthorized": "set KILLABLE_API_KEY to an API key of the server",
}

_EARLY_KILL_HINT = (
    "native code did not react to SIGTERM within ack_s: raise it with submit --ack-s, @job(ack_s=...) or [limits]"
)


def hint_for(error: KillableError) -> str:
    """Return the hint for an error; empty: there is none."""
    if error.code == "cancelled" and certificate_of(error).get("early_kill"):
        return _EARLY_KILL_HINT
    if error.code == "invalid" and isinstance(error, JobError):
        return ""
    limit = limit_of(error.code, error.facts)
    if limit and error.code.startswith(("timeout.", "limit.")) and (limit == "total_s" or error.code not in _HINTS):
        path = " PATH=SECONDS" if limit == "operation_s" else ""
        more = f"raise {limit} with submit --{limit.replace('_', '-')}{path}, in @job or in killable.toml"
        return f"{more}; killable explain {spelling.short(str(error.facts.get('job_id')))} suggests a value"
    return _HINTS.get(error.code, "")


def certificate_of(error: KillableError) -> Mapping[str, Any]:
    """Return the certificate of an ended job, or an empty mapping."""
    certificate = error.facts.get("certificate")
    return certificate if isinstance(certificate, Mapping) else {}
