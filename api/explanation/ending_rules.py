"""Describe which rule ended a job, in one or two sentences for every error code.

Runs in: any machine. Pure: from a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.api.explanation import spelling
from killable.workers.error_codes import CODES

_ASKED_BY = {
    "user": "A user cancelled it, with `killable kill`, DELETE or a client",
    "client_gone": "The last reader of its stream disconnected, and it was submitted with stop_when_client_leaves",
    "operator": "An operator killed its worker",
    "shutdown": "The server was shutting down",
}
_FAULTS = {
    "SIGSEGV": "an access to invalid memory",
    "SIGBUS": "an access beyond the end of a mapped file (a truncated file, a full /dev/shm)",
    "SIGABRT": "abort(): a library detected an internal error",
    "SIGFPE": "an arithmetic error in native code, such as a division by zero",
    "SIGILL": "an instruction that this processor does not support",
    "SIGSYS": "a system call that seccomp does not allow",
}
_STAGES = {
    "timeout.queue": "no worker had been assigned to it",
    "timeout.start": "its worker had not entered the job's function",
    "timeout.run": "its function had not returned",
}
_OTHERS = {True: "other jobs", False: "jobs of other tenants"}
_NOT_STOPPED = "No cancel, deadline or limit was involved."


def rule_of(record: Mapping[str, Any]) -> str:
    """Return why a job ended."""
    state, error = str(record["state"]), record.get("error") or {}
    code = str(error.get("code") or state)
    if state == "completed":
        return f"None: its function returned. {_NOT_STOPPED}"
    if state == "cancelled":
        return _cancelled(record, error)
    if code.startswith("timeout."):
        return _deadline(code, record, error)
    return _failure(code, record, error)


def _cancelled(record: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    by, reason = str(error.get("by") or "user"), error.get("reason")
    asked = _ASKED_BY.get(by, f"It was cancelled by {by}")
    why = f"; reason: {reason}" if reason else ""
    when = "" if record.get("attempts") else " It was still in the queue and had not been assigned to a worker."
    return f"{asked}{why}.{when}"


def _deadline(code: str, record: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    name = f"{code.removeprefix('timeout.')}_s"
    limit_s = error.get("limit_s")
    if error.get("limit") == "total_s" and limit_s is not None:
        of = spelling.setting(float(limit_s))
        return f"The deadline total_s of {of}: that long after acceptance, {_STAGES[code]}.{_held(error)}"
    if limit_s is None and code != "timeout.operation":
        limit_s = (record.get("limits") or {}).get(name)
    span = f" of {spelling.setting(float(limit_s))}" if limit_s is not None else ""
    what = {
        "timeout.run": "its function had not returned within that time",
        "timeout.queue": "no worker became free for it within that time",
        "timeout.start": "its worker had not entered the job's function within that time",
        "timeout.first_token": "its function produced no token within that time of its start",
        "timeout.idle": "its function produced no further token within that time",
        "timeout.operation": "that operation took longer",
    }.get(code, str(error.get("message") or CODES[code].title if code in CODES else code))
    if code != "timeout.operation":
        return f"The deadline {name}{span}: {what}.{_held(error)}"
    operation = f", set for operation {error.get('operation') or 'unknown'}"
    inside = f", the last part of it in {error['inside']}" if error.get("inside") else ""
    raised = " OperationTimedOut was raised in the job, which did not catch it." if error.get("traceback") else ""
    return f"The deadline {name}{span}{operation}: {what}{inside}.{raised}"


def _held(error: Mapping[str, Any]) -> str:
    """Return which jobs had the workers of its pool when its wait was over, as far as it may know."""
    named = [
        f"{spelling.short(str(each['job_id']))} ({each['type']}, for {spelling.duration(float(each['for_s']))})"
        for each in error.get("held_by") or ()
    ]
    busy = int(error.get("busy_workers") or 0)
    if not busy:
        return ""
    if others := busy - len(named):
        named.append(spelling.counted(others, "other job" if named else "job of another tenant", _OTHERS[bool(named)]))
    words = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f" {spelling.counted(busy, 'worker')} of its pool {'was' if busy == 1 else 'were'} busy then, with {words}."


def _failure(code: str, record: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    message = str(error.get("message") or (CODES[code].title if code in CODES else code))
    signal = str(error.get("signal") or "a signal")
    limits = record.get("limits") or {}
    match code:
        case "exception":
            return f"Its function raised {message}. {_NOT_STOPPED}"
        case "exit":
            return f"The job ended its own process, with exit code {error.get('exit_code')}. {_NOT_STOPPED}"
        case "crash":
            fault = f" ({_FAULTS[signal]})" if signal in _FAULTS else ""
            core = " A core was dumped." if error.get("core_dumped") else ""
            return f"Its process crashed with {signal}{fault}: a fault in native code. {_NOT_STOPPED}{core}"
        case "killed_externally":
            if error.get("oom") == "yes":
                return (
                    "The machine or its container ran out of memory: the kernel's out-of-memory killer ended its "
                    "process, and the cgroup counted the kill."
                )
            return f"{signal} from outside ended its process: this server did not send it.{_oom(error)}"
        case "limit.output":
            limit = spelling.size(limits.get("output_bytes"))
            return f"The limit output_bytes of {limit}: its output reached that size. The output up to then is kept."
        case "limit.memory":
            return f"The limit memory_bytes of {spelling.size(limits.get('memory_bytes'))}: {_memory(error)}."
        case "limit.cpu" if "measured_s" in error:
            used, processes = spelling.setting(float(error["measured_s"])), _processes_of_job(error)
            return (
                f"The limit cpu_s of {spelling.setting(float(error['limit_s']))}: {processes} had used {used} of "
                "processor time."
            )
        case "limit.tmp" if "measured_bytes" in error:
            return (
                f"The limit tmp_bytes of {spelling.size(error['limit_bytes'])}: its temporary directory had "
                f"{spelling.size(error['measured_bytes'])}."
            )
        case "limit.processes" if "limit_processes" in error:
            return (
                f"The limit processes_max of {error['limit_processes']}: {error.get('processes')} were counted at once."
            )
        case "limit.threads" if "limit_threads" in error:
            return f"The limit threads_max of {error['limit_threads']}: {error.get('threads')} were counted at once."
        case "limit.files" if limits.get("files_max") is not None:
            return f"The limit files_max of {limits['files_max']}: opening one more failed, which it did not handle."
        case "spawn":
            return f"Its process could not be started: {message}."
        case _:
            return f"The job ended with {code}: {message}."


def _memory(error: Mapping[str, Any]) -> str:
    """Return the growth as measured. Where the kernel refused memory (RLIMIT_DATA, memory.max), it is not known."""
    if "measured_bytes" in error:
        return f"{_processes_of_job(error)} had grown by {spelling.size(error['measured_bytes'])}"
    return "the kernel refused it more memory"


def _processes_of_job(error: Mapping[str, Any]) -> str:
    processes = error.get("processes", 1)
    return "its process" if processes == 1 else f"its {processes} processes together"


def _oom(error: Mapping[str, Any]) -> str:
    match error.get("oom"):
        case "no":
            return " It was not the out-of-memory killer."
        case _:
            return " The kernel's out-of-memory killer is the usual sender; whether it was this time is not known."
