"""Name the one setting that would have changed how a job ended, or state that none would.

Runs in: any machine. Pure: from a record, with its limits and its certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from killable.api.explanation import spelling
from killable.workers.authoring.limits_and_caps import LIMITS

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Remedy:
    """The setting to change and how, or the reason why there is none."""

    setting: str | None
    words: str


def remedy_for(record: Mapping[str, Any]) -> Remedy:
    """Return what to change for jobs like this one to end differently."""
    state, error = str(record["state"]), record.get("error") or {}
    if state == "completed":
        return _none("The job completed.")
    if state == "cancelled":
        return _of_cancel(record, str(error.get("by") or ""))
    return _of_failure(record, str(error.get("code") or state), error)


def written(seconds: float) -> str:
    """Return seconds as the command accepts them: 0.5s, 10s, 5m."""
    return spelling.setting(seconds).replace(" ", "")


def _of_cancel(record: Mapping[str, Any], by: str) -> Remedy:
    certificate = record.get("certificate") or {}
    if by == "client_gone":
        return Remedy(
            "stop_when_client_leaves", "Without it, a job keeps running when the last reader of its stream disconnects."
        )
    if "kill_sent" in certificate and "term_sent" in certificate:
        return _of_kill(record, certificate)
    if by == "shutdown":
        return Remedy(
            "--deadline", "`killable shutdown --deadline 5m` gives jobs 5 minutes to finish before it cancels them."
        )
    return _none("The job was cancelled as requested.")


def _of_kill(record: Mapping[str, Any], certificate: Mapping[str, Any]) -> Remedy:
    """SIGKILL was needed: native code, a clean-up that took too long, or a job that ignores SIGTERM."""
    if certificate.get("early_kill"):
        return _raise("ack_s", record, "native code that does not react to SIGTERM is killed after that time")
    if certificate.get("lingered"):
        return _none(
            "The job ended within its grace, but its process was still there a second later; a busy machine is the "
            "usual cause."
        )
    if "acknowledged" in certificate:
        return _raise("grace_s", record, "its clean-up had begun, but was not finished in that time")
    return _none(
        "SIGTERM had no effect: the job replaced the handler or blocked the signal, so no grace is long enough. "
        "A smaller grace_s ends it sooner."
    )


def limit_of(code: str, error: Mapping[str, Any]) -> str | None:
    """Return the limit of the job that caused an error; None if none did, or if it is not known which."""
    limit = error.get("limit")
    return limit if isinstance(limit, str) else _LIMIT.get(code)


_LIMIT = {
    limit.ends_as[0]: name
    for name, limit in LIMITS.items()
    # Queue, operations and open files have remedies of their own; several limits end with the same codes as total_s.
    if len(limit.ends_as) == 1 and name not in ("queue_s", "operation_s", "files_max")
}
"""Limits by error code, for errors that do not name theirs."""


def _of_failure(record: Mapping[str, Any], code: str, error: Mapping[str, Any]) -> Remedy:
    limits = record.get("limits") or {}
    limit = limit_of(code, error)
    if code == "limit.files" and limits.get("files_max") is not None:
        limit = "files_max"
    if limit is not None and limit not in ("queue_s", "operation_s"):  # these two are handled below
        return _raise(limit, record, f"it limits the {LIMITS[limit].bounds}")
    match code:
        case "timeout.operation":
            return _of_operation(record, error)
        case "timeout.queue" if record.get("nodes"):
            return _none(
                "Select other nodes (`killable nodes --json` shows their labels), or raise queue_s: one that fits may "
                "be free later."
            )
        case "timeout.queue":
            return Remedy("workers", "All workers were busy; raise workers under [pools.NAME] in killable.toml.")
        case "killed_externally" if error.get("oom") == "yes":
            return Remedy(
                "memory_bytes",
                "A smaller value ends such a job by its own limit before the machine runs out of memory.",
            )
        case "result.unserializable" if error.get("limit_bytes"):
            most = spelling.size(error["limit_bytes"])
            return _none(
                f"A result, token or checkpoint may take {most}, which no setting raises: yield it in parts, or write "
                "it to a file and return the path."
            )
        case "exception":
            known = (_OF_EXCEPTION.get(str(error.get(fact))) for fact in ("errno", "type"))
            return _none(next(filter(None, known), _WITHOUT_SETTING[code]))
        case _:
            return _none(_WITHOUT_SETTING.get(code, "No setting of this server would help."))


_FULL = "make room there, or have it write elsewhere. `df -h` shows the disks, `killable doctor` those of the server."
_NO_ANSWER = (
    "What it connects to did not answer, or hung up. @job(retry_on=(ConnectionError, TimeoutError)) runs it again."
)
_NO_MEMORY = (
    "The machine, or its container, had no memory left for it: give it less at once, or run fewer at once "
    "(workers under [pools.NAME] in killable.toml)."
)
_OF_EXCEPTION = {
    "ENOMEM": _NO_MEMORY,
    "MemoryError": _NO_MEMORY,
    "ENFILE": "The machine has no more open files for anybody: `cat /proc/sys/fs/file-nr` shows how many there are.",
    "ENOSPC": f"The disk that it wrote to is full: {_FULL}",
    "EROFS": "The file system that it wrote to is read-only: have it write elsewhere, to `ctx.tmp` for example.",
    "ECONNRESET": _NO_ANSWER,
    "ETIMEDOUT": _NO_ANSWER,
    "ECONNREFUSED": _NO_ANSWER,
    "EHOSTUNREACH": _NO_ANSWER,
    "ConnectionError": _NO_ANSWER,
    "ConnectionRefusedError": _NO_ANSWER,
    "ConnectionResetError": _NO_ANSWER,
    "EDQUOT": f"The disk quota of the account that it runs as is used up: {_FULL}",
}
"""What is mostly not the job's fault, by the name of an OSError's number (errno(3)), or by the exception's type."""
_WITHOUT_SETTING = {
    "exception": "Fix the job's code or its input; the traceback above shows where.",
    "input.invalid": "Fix the job's input; `killable types NAME` shows what it accepts.",
    "exit": "The job's code, or a library in it, ended the process: look for os._exit, sys.exit or exit().",
    "crash": "The fault is in native code that the job calls; the stack above, if there is one, shows where.",
    "killed_externally": "The signal came from outside this server; `dmesg` shows out-of-memory kills.",
    "protocol": "The job, or a library in it, wrote to the worker's own pipes.",
    "result.unserializable": "A job may yield and return only bytes or JSON: str, int, float, bool, None, list, dict.",
    "spawn": "Check the machine with `killable doctor`, and the job types with `killable types`.",
    "worker_lost": "A process of the server ended: its log says which (`zygote_gone`), and `dmesg` whether memory was "
    'short. @job(retry_on="worker_lost") runs such a job again.',
    "supervisor_lost": 'The server, or its machine, failed. @job(on_loss="rerun") runs such a job again.',
    "node_lost": "Its machine, or the way to it, failed; `killable nodes` shows how the machines are. With "
    "attempts_max of 2 or more such a job runs again on another one, unless it had streamed something; "
    '@job(retry_on="node_lost") runs that one again, too.',
    "unkillable": "The process is in uninterruptible sleep (state D), usually for a hung disk or network file system.",
    "limit.files": "files_max is not set for this job; the server's `ulimit -n` limits its open files.",
}  # fmt: skip


def _raise(name: str, record: Mapping[str, Any], why: str) -> Remedy:
    now = (record.get("limits") or {}).get(name)
    if now is None:
        return _none(f"{name} is not set for this job.")
    if name.endswith("_bytes"):
        shown, twice = spelling.size(now), _bytes(2 * now)
    elif name.endswith("_max"):
        shown, twice = f"{now}", f"{2 * now}"
    else:
        shown, twice = spelling.setting(float(now)), written(2 * float(now))
    quoted = twice if name.endswith("_max") else f'"{twice}"'
    option = f"--{name.replace('_', '-')} {twice}"
    return Remedy(name, f"It is {shown} for this job; {why}. {_where(record, option, name, name, quoted)}")


def _where(record: Mapping[str, Any], option: str, name: str, key: str, quoted: str) -> str:
    """Return where the limit can be set, the place that takes precedence first."""
    declared = f"{name}={quoted}" if key == name else f"{name}={{{key}: {quoted}}}"
    table = f"[jobs.{record['type']}.limits]" if key == name else f"[jobs.{record['type']}.limits.{name}]"
    for_type = f"@job({declared}), or {key} = {quoted} under {table} in killable.toml"
    if LIMITS[name].of_resources:
        return f"To raise it for its type: {for_type}. `killable submit {option}` for one job needs a cap as large."
    return f"To raise it: `killable submit {option}` for one job; for its type, {for_type}."


def _of_operation(record: Mapping[str, Any], error: Mapping[str, Any]) -> Remedy:
    """Return the remedy for an operation: its path is the key, which needs quotes in TOML and Python."""
    path, limit_s = error.get("operation"), error.get("limit_s")
    if not path or limit_s is None:
        return _none("The operation is not known.")
    twice = written(2 * float(limit_s))
    shown = f"For {path} it is {spelling.setting(float(limit_s))} in this job; it overrides the timeout_s in the code."
    where = _where(record, f"--operation-s {path}={twice}", "operation_s", f'"{path}"', f'"{twice}"')
    return Remedy("operation_s", f"{shown} {where}")


def _bytes(count: int) -> str:
    for unit, name in _UNITS:
        if count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


def _none(why: str) -> Remedy:
    return Remedy(None, why)
