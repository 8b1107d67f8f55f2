"""Which one setting would have made a job end otherwise, or that none would.

Runs in: any machine. Pure: from a record, with its limits and its certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from killable.api.cli.display import render
from killable.workers.authoring.limits import LIMITS

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, slots=True)
class Remedy:
    """The setting to change and what to write, or the reason why there is none."""

    setting: str | None
    words: str


def remedy_for(record: Mapping[str, Any]) -> Remedy:
    """Return what to change so that a job like this one ends otherwise."""
    state, error = str(record["state"]), record.get("error") or {}
    if state == "completed":
        return _none("It did what it was asked to do.")
    if state == "cancelled":
        return _of_cancel(record, str(error.get("by") or ""))
    return _of_failure(record, str(error.get("code") or state), error)


def written(seconds: float) -> str:
    """Return seconds as the command takes them: 0.5, 10s, 5m."""
    return render.setting(seconds).replace(" ", "")


def _of_cancel(record: Mapping[str, Any], by: str) -> Remedy:
    certificate = record.get("certificate") or {}
    if by == "client_gone":
        return Remedy(
            "stop_when_client_leaves", "Submitted without it, a job goes on when the last reader of its stream leaves."
        )
    if "kill_sent" in certificate and "term_sent" in certificate:
        return _of_kill(record, certificate)
    if by == "shutdown":
        return Remedy(
            "--deadline", "`killable shutdown --deadline 5m` lets jobs end by themselves before it stops them."
        )
    return _none("It ended because it was asked to, and as it should.")


def _of_kill(record: Mapping[str, Any], certificate: Mapping[str, Any]) -> Remedy:
    """SIGKILL was needed: native code, a clean-up that took too long, or a job that does not listen."""
    if certificate.get("early_kill"):
        return _raise("ack_s", record, "it is how long native code that cannot hear SIGTERM is waited for")
    if certificate.get("lingered"):
        return _none(
            "The job had ended in its grace; only its process had not, a second later: a busy machine, mostly."
        )
    if "acknowledged" in certificate:
        return _raise("grace_s", record, "its clean-up had begun and was not done")
    return _none(
        "The job never let SIGTERM through (it replaced the handler, or blocked the signal), so no grace is long "
        "enough. A smaller grace_s ends it sooner."
    )


def limit_of(code: str, error: Mapping[str, Any]) -> str | None:
    """Return the limit of the job's that an error came of; None: it came of none, or nobody knows of which."""
    limit = error.get("limit")
    return limit if isinstance(limit, str) else _LIMIT.get(code)


_LIMIT = {
    code: name
    for code in ("timeout.run", "timeout.first_token", "timeout.idle", "timeout.start", "limit.memory", "limit.cpu",
                 "limit.processes", "limit.output")
    for name, limit in LIMITS.items()
    if limit.ends_as == (code,)
}  # fmt: skip
"""Where the error does not say it."""


def _of_failure(record: Mapping[str, Any], code: str, error: Mapping[str, Any]) -> Remedy:
    limits = record.get("limits") or {}
    limit = limit_of(code, error)
    if code == "limit.files" and limits.get("files_max") is not None:
        limit = "files_max"
    if limit is not None and limit not in ("queue_s", "operation_s"):  # those are about the queue, or an operation
        return _raise(limit, record, LIMITS[limit].bounds)
    match code:
        case "timeout.operation":
            return _of_operation(record, error)
        case "timeout.queue":
            return Remedy(
                "workers", "More workers in [pools.NAME] of killable.toml shorten the queue; they were all busy."
            )
        case "killed_externally" if error.get("oom") == "yes":
            return Remedy(
                "memory_bytes", "A smaller one ends such a job by its own limit, before the machine is out of memory."
            )
        case _:
            return _none(_WITHOUT_SETTING.get(code, "What is to be changed is not a setting of this server."))


_WITHOUT_SETTING = {
    "exception": "What is to be changed is the job's code or its input: the traceback above says where.",
    "input.invalid": "What is to be changed is the job's input; `killable types NAME` says what it takes.",
    "exit": "The job's own code, or a library in it, ended the process: look for os._exit, sys.exit, exit().",
    "crash": "The fault is in native code that the job calls: the stack above says from where, if it left one.",
    "killed_externally": "Someone outside this server did it: `dmesg` tells whether it was the out-of-memory killer.",
    "protocol": "Something in the job wrote to the worker's own pipes.",
    "result.unserializable": "A job yields and returns bytes or JSON: str, int, float, bool, None, list, dict.",
    "spawn": "The machine or the installation is: `killable doctor` looks at it, `killable types` at the job types.",
    "unkillable": "A process in state D waits in the kernel: a hung disk or network file system is the usual cause.",
    "limit.files": "No files_max is set for this job: open files are bounded by `ulimit -n` of the server.",
}  # fmt: skip


def _raise(name: str, record: Mapping[str, Any], why: str) -> Remedy:
    now = (record.get("limits") or {}).get(name)
    if now is None:
        return _none(f"{name} is not set for this job.")
    if name.endswith("_bytes"):
        shown, twice = render.size(now), _bytes(2 * now)
    elif name.endswith("_max"):
        shown, twice = f"{now}", f"{2 * now}"
    else:
        shown, twice = render.setting(float(now)), written(2 * float(now))
    quoted = twice if name.endswith("_max") else f'"{twice}"'
    option = f"--{name.replace('_', '-')} {twice}"
    return Remedy(name, f"It is {shown} here; {why}. {_where(record, option, name, name, quoted)}")


def _where(record: Mapping[str, Any], option: str, name: str, key: str, quoted: str) -> str:
    """Return where a limit can be set, the nearest place first: what stands in a farther one may not hold for it."""
    declared = f"{name}={quoted}" if key == name else f"{name}={{{key}: {quoted}}}"
    table = f"[jobs.{record['type']}.limits]" if key == name else f"[jobs.{record['type']}.limits.{name}]"
    return (
        f"`killable submit {option}` for one job; @job({declared}), or {key} = {quoted} under {table} in "
        "killable.toml, for its type."
    )


def _of_operation(record: Mapping[str, Any], error: Mapping[str, Any]) -> Remedy:
    """The time of an operation is written by its path, which needs quotes in TOML and Python."""
    path, limit_s = error.get("operation"), error.get("limit_s")
    if not path or limit_s is None:
        return _none("It is not known which operation it was.")
    twice = written(2 * float(limit_s))
    shown = f"For {path} it is {render.setting(float(limit_s))} here; it goes over the timeout_s in the code."
    where = _where(record, f"--operation-s {path}={twice}", "operation_s", f'"{path}"', f'"{twice}"')
    return Remedy("operation_s", f"{shown} {where}")


def _bytes(count: int) -> str:
    for unit, name in _UNITS:
        if count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


def _none(why: str) -> Remedy:
    return Remedy(None, why)
