"""Which rule ended a job, in words: one sentence or two for every code.

Runs in: any machine. Pure: from a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.api.cli.display import render
from killable.workers.errors import CODES

_ASKED_BY = {
    "user": "Someone asked for it: `killable kill`, DELETE, or a client's cancel",
    "client_gone": "The last reader of its stream left, and it was submitted with stop_when_client_leaves",
    "operator": "An operator killed its worker",
    "shutdown": "The server was shutting down",
}
_FAULTS = {
    "SIGSEGV": "an access to memory that is not its own",
    "SIGBUS": "an access to memory that is not there (a file that got shorter, a full /dev/shm)",
    "SIGABRT": "abort(): a library found a fault of its own",
    "SIGFPE": "a division by zero in native code",
    "SIGILL": "an instruction that this processor does not have",
    "SIGSYS": "a system call that is forbidden here",
}
_STAGES = {
    "timeout.queue": "no worker had it",
    "timeout.start": "its worker had not entered the job's function",
    "timeout.run": "its function had not returned",
}
_OWN_DOING = "No cancel, deadline or limit played a part."


def rule_of(record: Mapping[str, Any]) -> str:
    """Return why a job that has ended did."""
    state, error = str(record["state"]), record.get("error") or {}
    code = str(error.get("code") or state)
    if state == "completed":
        return f"None: its function returned. {_OWN_DOING}"
    if state == "cancelled":
        return _cancelled(record, error)
    if code.startswith("timeout."):
        return _deadline(code, record, error)
    return _failure(code, record, error)


def _cancelled(record: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    by, reason = str(error.get("by") or "user"), error.get("reason")
    asked = _ASKED_BY.get(by, f"It was cancelled by {by}")
    why = f", saying: {reason}" if reason else ""
    when = "" if record.get("attempts") else " It was still in the queue, so no worker ever had it."
    return f"{asked}{why}.{when}"


def _deadline(code: str, record: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    name = f"{code.removeprefix('timeout.')}_s"
    limit_s = error.get("limit_s")
    if error.get("limit") == "total_s" and limit_s is not None:
        return (
            f"The deadline total_s of {render.setting(float(limit_s))}: so long after it was accepted {_STAGES[code]}."
        )
    if limit_s is None and code != "timeout.operation":
        limit_s = (record.get("limits") or {}).get(name)
    span = f" of {render.setting(float(limit_s))}" if limit_s is not None else ""
    what = {
        "timeout.run": "its function had not returned when that time since its start was over",
        "timeout.queue": "no worker was free for it in that time after it was accepted",
        "timeout.start": "its worker had not entered the job's function in that time",
        "timeout.first_token": "its function was entered, and no token had come in that time",
        "timeout.idle": "it had streamed, and no further token had come in that time",
        "timeout.operation": "the job was inside that operation for longer",
    }.get(code, str(error.get("message") or CODES[code].title if code in CODES else code))
    if code != "timeout.operation":
        return f"The deadline {name}{span}: {what}."
    operation = f", set for operation {error.get('operation') or 'unknown'}"
    inside = f", at last in {error['inside']}" if error.get("inside") else ""
    raised = " OperationTimedOut was raised in it, and it did not catch that." if error.get("traceback") else ""
    return f"The deadline {name}{span}{operation}: {what}{inside}.{raised}"


def _failure(code: str, record: Mapping[str, Any], error: Mapping[str, Any]) -> str:
    message = str(error.get("message") or (CODES[code].title if code in CODES else code))
    signal = str(error.get("signal") or "a signal")
    limits = record.get("limits") or {}
    match code:
        case "exception":
            return f"Its function raised {message}. {_OWN_DOING}"
        case "exit":
            return f"The job ended its own process, with exit code {error.get('exit_code')}. {_OWN_DOING}"
        case "crash":
            fault = f" ({_FAULTS[signal]})" if signal in _FAULTS else ""
            core = " A core was dumped." if error.get("core_dumped") else ""
            return f"Its process crashed with {signal}{fault}: a fault in native code. {_OWN_DOING}{core}"
        case "killed_externally":
            return f"{signal} from outside ended its process: nobody here sent it.{_oom(error)}"
        case "limit.output":
            limit = render.size(limits.get("output_bytes"))
            return f"The limit output_bytes of {limit}: it had streamed and printed as much. What came before is kept."
        case "limit.memory":
            return f"The limit memory_bytes of {render.size(limits.get('memory_bytes'))}: {_memory(error)}."
        case "limit.cpu" if "measured_s" in error:
            used = render.setting(float(error["measured_s"]))
            return (
                f"The limit cpu_s of {render.setting(float(error['limit_s']))}: {_its(error)} had computed for {used}."
            )
        case "limit.processes" if "limit_processes" in error:
            return f"The limit processes_max of {error['limit_processes']}: {error.get('processes')} were seen at once."
        case "limit.files" if limits.get("files_max") is not None:
            return f"The limit files_max of {limits['files_max']}: it opened one more, and did not go on without it."
        case "spawn":
            return f"Its process could not be started: {message}."
        case _:
            return f"{message}."


def _memory(error: Mapping[str, Any]) -> str:
    """Measured, or refused: RLIMIT_DATA and memory.max do not say how much it would have been."""
    if "measured_bytes" in error:
        return f"{_its(error)} had grown by {render.size(error['measured_bytes'])}"
    return "the kernel gave it no more memory"


def _its(error: Mapping[str, Any]) -> str:
    processes = error.get("processes", 1)
    return "its process" if processes == 1 else f"its {processes} processes together"


def _oom(error: Mapping[str, Any]) -> str:
    match error.get("oom"):
        case "yes":
            return " It was the kernel's out-of-memory killer: the cgroup counted it."
        case "no":
            return " It was not the out-of-memory killer."
        case _:
            return " The kernel's out-of-memory killer is the usual sender; it is not known whether it was."
