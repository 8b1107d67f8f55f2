"""Run a command in this terminal, and say how it ended: what `killable run` does when its arguments are read.

Runs in: Linux. Imports as little as possible before the command runs.
"""

from __future__ import annotations

import errno
import os
import signal as signals
import stat
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from killable.api.cli.parameters.run_arguments import RunArguments
    from killable.supervisor.commands.command_ending import CommandEnd

NOT_FOUND, NOT_EXECUTABLE, AT_TIME_LIMIT, AT_LIMIT, NO_PROCESS = 127, 126, 124, 128 + signals.SIGKILL, 71
"""The exit codes of timeout(1) and of shells; of a machine that can make no process."""


class ReportNotWritable(Exception):
    """The end of the command cannot be written."""


def run_and_tell(asked: RunArguments, number: int) -> int:
    """Run the command to its end; `number` is the signal that asks it to end. Return the exit code for it.

    End this process by the signal that has ended the command. Raise ReportNotWritable before anything runs.
    """
    from killable.supervisor.commands.command_in_terminal import CommandNotStarted, CommandRunner
    from killable.supervisor.linux.own_signals import die_of

    runner = CommandRunner(asked.argv, asked.limits, number)
    if asked.report:
        _check_report(asked.report)
    try:
        end = runner.run()
    except CommandNotStarted as error:
        words, code = _why_not(asked.argv, error.errno, of_program=error.of_program)
        _tell_not_started(words, asked)
        return code
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""  # /proc, which is not there
        _tell_not_started(f"no process can be made: {error.strerror}{where}", asked)
        return NO_PROCESS
    _tell(end, asked)
    code_of_end = end.outcome.code or ""
    if code_of_end == "timeout.run":
        return AT_TIME_LIMIT
    if code_of_end in ("unkillable", "worker_lost") or code_of_end.startswith("limit."):
        return AT_LIMIT
    if end.status.signal:
        die_of(end.status.signal, group=runner.was_interrupted_by_terminal)
        return 128 + end.status.signal  # it is blocked
    return 1 if end.status.exit_code is None else end.status.exit_code


def signal_number(text: str) -> int | None:
    """Return a signal by its name or number, with or without SIG, such as `INT` and `RTMIN+3`; None: there is none."""
    name = text.upper().removeprefix("SIG")
    try:
        if name.isdecimal():
            number = int(name)
        elif name.startswith(("RTMIN+", "RTMAX-")):
            number = signals.Signals[f"SIG{name[:5]}"] + int(name[5:])
        else:
            number = int(signals.Signals[f"SIG{name}"])
        return number if signals.SIGRTMIN <= number <= signals.SIGRTMAX else int(signals.Signals(number))
    except (KeyError, ValueError):
        return None


def _why_not(argv: Sequence[str], number: int, *, of_program: bool) -> tuple[str, int]:
    """Return why a command did not start, and the exit code."""
    program = argv[0]
    shown = _shown(program)
    if not of_program:
        return f"no process can be made: {os.strerror(number)}", NO_PROCESS
    if number == errno.ENOENT and "/" not in program:
        return f"{shown} is not found on PATH{_as_timeout_has_it(argv)}", NOT_FOUND
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"{shown} is not there, or the interpreter that its first line names", NOT_FOUND
    return f"{shown} cannot be executed: {os.strerror(number)}", NOT_EXECUTABLE


def _shown(argument: str) -> str:
    """Return an argument with quotes. What is no UTF-8 is shown as its bytes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return repr(os.fsencode(argument)).removeprefix("b")
    return repr(argument)


def _as_timeout_has_it(argv: Sequence[str]) -> str:
    """Return what helps whoever gives the time as to timeout(1): in front of the command."""
    from killable.workers.authoring.limits_and_caps import LIMITS

    try:
        LIMITS["run_s"].unit.parse(argv[0])
    except ValueError:
        return ""
    return f"; as a time limit it is --run-s {argv[0]}" if len(argv) > 1 else ""


def _check_report(path: str) -> None:
    try:
        if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            return  # who reads it takes the first close for the end
        with open(path, "w"):
            pass
    except OSError as error:
        raise ReportNotWritable(f"{path!r} cannot be written: {error.strerror}") from None


def _write(path: str, document: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(f"{document}\n")
    except OSError as error:
        _say(f"killable: {path!r} cannot be written: {error.strerror}")


def _tell(end: CommandEnd, asked: RunArguments) -> None:
    """Say how the command ended: if it was ended here, or if that is asked for."""
    if asked.as_json or asked.report:
        _report(_members(end), asked)
    if asked.as_json:
        return
    if end.outcome.code in (None, "exit", "crash", "killed_externally"):
        return  # the shell tells it, as without `killable run`
    _say(f"killable: {end.outcome.code}: {end.outcome.message}{_death(end)}")


def _tell_not_started(words: str, asked: RunArguments) -> None:
    """Say why there was no command, in the form that was asked for."""
    error = {"code": "spawn", "message": words}
    members = {"state": "failed", "exit_code": None, "signal": None, "run_s": None, "error": error, "certificate": None}
    _report(members, asked)
    if not asked.as_json:
        _say(f"killable: {words}")


def _report(members: dict[str, Any], asked: RunArguments) -> None:
    """Write JSON to where it is asked for."""
    if not (asked.as_json or asked.report):
        return
    import json  # here, as most commands end without

    document = json.dumps(members, default=str)
    if asked.report:
        _write(asked.report, document)
    if asked.as_json:
        _say(document)


def _say(words: str) -> None:
    """Print on stderr, if anybody reads it: the exit code is the command's all the same."""
    try:
        print(words, file=sys.stderr, flush=True)
    except OSError:
        pass


def _death(end: CommandEnd) -> str:
    """Return `; SIGTERM, SIGKILL after 500 ms, its 3 processes are gone after 501 ms`, or similar."""
    certificate = end.certificate
    if certificate.tree_empty is None:
        return "; NOT PROVEN DEAD"
    parts = [end.asked_by] if certificate.term_sent is not None else []
    if certificate.kill_sent is not None:
        parts.append(f"SIGKILL after {certificate.kill_sent:.0f} ms")
    processes = 1 + certificate.processes_swept
    words = "its process is gone" if processes == 1 else f"its {processes} processes are gone"
    return f"; {', '.join([*parts, words])} after {certificate.tree_empty:.1f} ms"


def _members(end: CommandEnd) -> dict[str, Any]:
    from killable.supervisor.attempts.exit_outcome import signal_name

    outcome = end.outcome
    error = None if outcome.code is None else {"code": outcome.code, "message": outcome.message, **outcome.facts}
    return {
        "state": outcome.state,
        "exit_code": end.status.exit_code,
        "signal": None if end.status.signal is None else signal_name(end.status.signal),
        "run_s": round(end.run_s, 6),
        "error": error,
        "certificate": end.certificate.as_json(),
    }
