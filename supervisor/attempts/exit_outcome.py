"""The only place that turns a verdict, a closing frame and an exit status into an outcome. Covers every combination.

Runs in: supervisor. Pure. The first cause wins: the supervisor's verdict, then the worker's closing frame, then how the
process ended. Unknown is a value: no exit code is invented, and our own SIGKILL is never reported as out-of-memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from killable.supervisor.attempts.deadlines import Deadlines
from killable.supervisor.jobs.lifecycle import terminal_state_of
from killable.supervisor.models import ExitStatus, Outcome, Verdict
from killable.supervisor.ports import Gone
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.error_codes import CODES
from killable.workers.exit_codes import MEANINGS, ExitCode
from killable.workers.named_tuples import NamedTuple
from killable.workers.protocol.frames import FRAME_BYTES_MAX
from killable.workers.protocol.messages import Raised

SIGNAL_NAMES: dict[int, str] = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM",
    16: "SIGSTKFLT", 17: "SIGCHLD", 18: "SIGCONT", 19: "SIGSTOP", 20: "SIGTSTP", 21: "SIGTTIN", 22: "SIGTTOU",
    23: "SIGURG", 24: "SIGXCPU", 25: "SIGXFSZ", 26: "SIGVTALRM", 27: "SIGPROF", 28: "SIGWINCH", 29: "SIGIO",
    30: "SIGPWR", 31: "SIGSYS",
}  # fmt: skip
"""signal(7) on x86-64 and ARM."""

_DELIBERATE_SIGNALS = frozenset({1, 2, 9, 15})
"""Signals that are sent on purpose to end a process; an end by any other signal is reported as a crash."""

_OUT_OF_MEMORY = "out of memory: the kernel's out-of-memory killer ended the process"

_KILL, _TERM, _XCPU = 9, 15, 24
"""The kernel sends SIGXCPU to a process that has used up RLIMIT_CPU, where `cpu_s` has set one."""


class Evidence(NamedTuple):
    """What the supervisor knows besides the exit status."""

    entered: bool = False
    """The job function had been entered."""
    torn_bytes: int = 0
    """Bytes of an unfinished frame at the end of the pipe."""
    protocol_error: str = ""
    zygote_lost: bool = False
    """The zygote died: PDEATHSIG killed the worker, and the job is not the cause."""
    oom: str = "unknown"
    """yes · no · unknown; yes only with a proof (a memory cgroup's count of victims)."""
    memory_max_struck: bool = False
    """The kernel killed it for the memory.max of its own cgroup."""
    cpu_used_up: bool = False
    """The job had a `cpu_s`, and its process has used that much (rusage)."""
    operation: Verdict | None = None
    """The verdict if the job did not catch the last `OperationTimedOut` that was raised in it."""
    operation_signalled: Verdict | None = None
    """The verdict if the SIGTERM for an expired operation, not acknowledged yet, ended the process."""
    unpickles: bool = False
    """Its input is a pickle: code of the program runs before the job function is entered."""

    @classmethod
    def of(
        cls, gone: Gone, limits: Limits, protocol_error: str, deadlines: Deadlines, *, entered: bool, unpickles: bool
    ) -> Self:
        """Return the evidence about an attempt whose process is gone."""
        return cls(
            entered=entered,
            torn_bytes=gone.torn_bytes,
            protocol_error=protocol_error,
            zygote_lost=gone.zygote_lost,
            oom=gone.oom,
            memory_max_struck=gone.memory_max_struck,
            cpu_used_up=limits["cpu_s"] is not None and _cpu_s(gone) >= limits["cpu_s"],
            operation=deadlines.raised,
            operation_signalled=deadlines.expired_by_signal,
            unpickles=unpickles,
        )


def _cpu_s(gone: Gone) -> float:
    ending = gone.ending
    return 0.0 if ending is None else ending.user_s + ending.system_s


_COMPLETED = Outcome("completed")


def signal_name(number: int) -> str:
    return SIGNAL_NAMES.get(number, f"SIG{number}")


def classify(
    verdict: Verdict | None,
    last: Raised | bytes | None,
    status: ExitStatus,
    evidence: Evidence,
) -> Outcome:
    """Return the outcome. `last` is the closing frame: bytes (the value) if the job function returned."""
    if verdict is not None:
        told = {"by": verdict.by, "reason": verdict.reason, **without_message(verdict.facts)}
        return _failed(verdict.code, message_of(verdict), _mechanism(status) | told)
    if isinstance(last, bytes):
        return _COMPLETED
    if evidence.protocol_error:
        return _failed("protocol", evidence.protocol_error, _mechanism(status))
    if last is not None:
        return _from_raised(last, evidence)._replace(is_transient=last.is_transient, after_s=last.after_s)
    return _from_status(status, evidence)


def message_of(verdict: Verdict) -> str:
    """Return the verdict's own message, or the title of its code."""
    return verdict.facts.get("message") or CODES[verdict.code].title


def without_message(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "message"}


def _failed(code: str, message: str, facts: dict[str, Any] | None = None) -> Outcome:
    return Outcome(terminal_state_of(code), code, message, facts or {})


def _mechanism(status: ExitStatus) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if status.exit_code is not None:
        facts["exit_code"] = status.exit_code
    if status.signal is not None:
        facts["signal"] = signal_name(status.signal)
    return facts


def _from_raised(last: Raised, evidence: Evidence) -> Outcome:
    facts: dict[str, Any] = {"type": last.type, "traceback": last.traceback}
    if last.errno:
        facts["errno"] = last.errno
    match last.cause:
        case "operation" if evidence.operation is not None:
            return _operation_over(evidence.operation, facts)
        case "exception" | "operation":  # without a notice the job raised `OperationTimedOut` by itself
            return _failed("exception", f"{last.type}: {last.message}" if last.message else last.type, facts)
        case "memory":
            return _failed("limit.memory", f"memory_bytes was reached: {last.type} {last.message}".rstrip(), facts)
        case "files":
            return _failed("limit.files", f"no more files can be opened: {last.type} {last.message}".rstrip(), facts)
        case "exit":
            return _exit(last.exit_code, last.message)
        case "stopped":
            return _exit(ExitCode.TERMINATED)
        case "unserializable":
            return _failed("result.unserializable", last.message, {"type": last.type})
        case "too_large":
            return _failed("result.unserializable", last.message, {"type": last.type, "limit_bytes": FRAME_BYTES_MAX})
        case "payload":
            faults = [{"in": "input", **fault} for fault in last.faults]
            return _failed("input.invalid", last.message, {"faults": faults})
        case "assignment":
            return _failed("spawn", last.message)
        case other:
            return _failed("protocol", f"a closing frame of unknown cause {other!r}")


def _operation_over(verdict: Verdict, facts: dict[str, Any]) -> Outcome:
    told = {**facts, "by": verdict.by, **without_message(verdict.facts)}
    return _failed(verdict.code, verdict.facts["message"], told)


def _exit(exit_code: int | None, message: str = "") -> Outcome:
    words = message or f"the job ended its process with exit code {exit_code}"
    return _failed("exit", words, {"exit_code": exit_code})


def _from_status(status: ExitStatus, evidence: Evidence) -> Outcome:
    if not status.known and evidence.zygote_lost:
        return _failed("worker_lost", "the pool's guard or zygote died, and this worker with it")
    if not status.known:
        return _failed("worker_lost", "the process ended; its exit status is unknown")
    if status.signal is not None:
        return _from_signal(status.signal, status, evidence)
    code = status.exit_code
    assert code is not None
    if not evidence.entered and not (evidence.unpickles and code not in MEANINGS):
        return _before_entry(code)
    if evidence.torn_bytes and code == 0:
        return _failed(
            "protocol", f"{evidence.torn_bytes} bytes of an unfinished frame, then exit code 0", {"exit_code": 0}
        )
    return _exit(code)


def _from_signal(number: int, status: ExitStatus, evidence: Evidence) -> Outcome:
    name = signal_name(number)
    if number == _KILL and evidence.zygote_lost:
        return _failed("worker_lost", "the pool's zygote died and its workers with it", {"signal": name})
    if number == _KILL and evidence.memory_max_struck:
        return _failed("limit.memory", "memory_bytes was reached: the kernel killed its cgroup", {"signal": name})
    if number == _XCPU and evidence.cpu_used_up:
        return _failed("limit.cpu", "the job used up its processor time (cpu_s)", {"signal": name})
    if number == _TERM and evidence.operation_signalled is not None:
        return _operation_over(evidence.operation_signalled, {"signal": name})
    if number in _DELIBERATE_SIGNALS:
        oom = evidence.oom if number == _KILL else "no"
        message = _OUT_OF_MEMORY if oom == "yes" else f"{name} ended the process; it was not sent by killable"
        return _failed("killed_externally", message, {"signal": name, "oom": oom})
    return _failed("crash", f"the process crashed with {name}", {"signal": name, "core_dumped": status.core_dumped})


def _before_entry(code: int) -> Outcome:
    """Classify an exit before the job function was entered: the exit codes are those of the worker harness."""
    meaning = MEANINGS.get(code, "ended")
    facts = {"exit_code": code}
    match code:
        case ExitCode.BAD_ASSIGNMENT | ExitCode.BAD_PAYLOAD | ExitCode.PROTOCOL | ExitCode.HARNESS_BUG:
            return _failed("protocol", f"the worker ended before the job began: {meaning} (exit code {code})", facts)
        case ExitCode.PIPE_GONE:
            return _failed("worker_lost", f"the worker ended before the job began: {meaning} (exit code {code})", facts)
        case _:
            return _failed("spawn", f"the worker ended before the job began: {meaning} (exit code {code})", facts)
