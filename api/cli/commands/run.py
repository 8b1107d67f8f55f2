"""`killable run`: run a command without a server, with limits, to a proven end.

Runs in: Linux. Imports as little as possible before the command runs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal as signals
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from killable.api.cli.parameters.limit_options import limits_of
from killable.workers.authoring.limits_and_caps import LIMITS, UNSET, Limits

if TYPE_CHECKING:
    from killable.supervisor.commands.command_run import CommandEnd

NOT_FOUND, NOT_EXECUTABLE, AT_TIME_LIMIT, AT_LIMIT = 127, 126, 124, 128 + signals.SIGKILL
"""The exit codes of timeout(1) and of shells."""


def run(argv: tuple[str, ...], signal: str, as_json: bool, report: Path | None, **options: Any) -> None:
    if sys.platform != "linux":
        raise click.ClickException("commands can be run on Linux only")
    from killable.supervisor.commands.run_command import CommandNotStarted, CommandRunner
    from killable.supervisor.linux.own_signals import die_of

    number = _signal_number(signal)
    limits = _limits(options)
    runner = CommandRunner(argv, limits, number)
    if report is not None:
        _check_report(report)
    try:
        end = runner.run()
    except CommandNotStarted as error:
        _fail(*_why_not(argv[0], error.errno, of_program=error.of_program))
    except OSError as error:
        _fail(f"no process can be made: {error.strerror}", 71)
    _tell(end, as_json, report)
    number = end.status.signal or 0
    code = end.outcome.code or ""
    if code == "timeout.run":
        raise click.exceptions.Exit(AT_TIME_LIMIT)
    if code in ("unkillable", "worker_lost") or code.startswith("limit."):
        raise click.exceptions.Exit(AT_LIMIT)
    if number:
        die_of(number, group=runner.was_interrupted_by_terminal)
        raise click.exceptions.Exit(128 + number)  # it is blocked
    raise click.exceptions.Exit(_own_code(end))


def _limits(options: dict[str, Any]) -> Limits:
    """Return all limits. Raise click.BadParameter for one that no command can have."""
    given = limits_of(options)
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value == 0 and not LIMITS[name].may_be_zero:
            raise click.BadParameter("must be more than 0; without the option there is no limit", param_hint=option)
        if value is None and not LIMITS[name].may_be_none:
            raise click.BadParameter("cannot be none", param_hint=option)
    return Limits(**{**_NONE, **given})  # type: ignore[typeddict-item]


_NONE: dict[str, Any] = {
    name: limit.default if limit.default_of_executor is UNSET else limit.default_of_executor
    for name, limit in LIMITS.items()
}
"""No limit, but a grace."""


def _own_code(end: CommandEnd) -> int:
    return 1 if end.status.exit_code is None else end.status.exit_code


def _signal_number(text: str) -> int:
    """Return a signal by its name, with or without SIG, or by its number. Raise click.BadParameter."""
    try:
        if text.isdecimal():
            return int(signals.Signals(int(text)))
        return int(signals.Signals[f"SIG{text.upper().removeprefix('SIG')}"])
    except (KeyError, ValueError):
        raise click.BadParameter(f"{text!r} is no signal; kill -l lists them", param_hint="--signal") from None


def _why_not(program: str, number: int, *, of_program: bool) -> tuple[str, int]:
    """Return why a command did not start, and the exit code."""
    if not of_program:
        return f"no process can be made: {os.strerror(number)}", 71
    if number == errno.ENOENT and "/" not in program:
        return f"{program!r} is not found on PATH", NOT_FOUND
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"{program!r} is not there, or the interpreter that its first line names", NOT_FOUND
    return f"{program!r} cannot be executed: {os.strerror(number)}", NOT_EXECUTABLE


def _fail(words: str, code: int) -> None:
    _say(f"killable: {words}")
    raise click.exceptions.Exit(code)


def _check_report(report: Path) -> None:
    """Fail before the command runs if its end cannot be written."""
    try:
        report.write_text("")
    except OSError as error:
        raise click.BadParameter(
            f"{str(report)!r} cannot be written: {error.strerror}", param_hint="--report"
        ) from None


def _write(report: Path, document: str) -> None:
    try:
        report.write_text(f"{document}\n")
    except OSError as error:
        _say(f"killable: {str(report)!r} cannot be written: {error.strerror}")


def _tell(end: CommandEnd, as_json: bool, report: Path | None) -> None:
    """Say how the command ended: if it was ended here, or if that is asked for."""
    if as_json or report is not None:
        document = json.dumps(_members(end), default=str)
        if report is not None:
            _write(report, document)
        if as_json:
            _say(document)
            return
    if end.outcome.code in (None, "exit", "crash", "killed_externally"):
        return  # the shell tells it, as without `killable run`
    _say(f"killable: {end.outcome.code}: {end.outcome.message}{_death(end)}")


def _say(words: str) -> None:
    """Print on stderr, if anybody reads it: the exit code is the command's all the same."""
    with contextlib.suppress(OSError):
        click.echo(words, err=True)


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
    outcome = end.outcome
    error = None if outcome.code is None else {"code": outcome.code, "message": outcome.message, **outcome.facts}
    return {
        "state": outcome.state,
        "exit_code": end.status.exit_code,
        "signal": None if end.status.signal is None else signals.Signals(end.status.signal).name,
        "run_s": round(end.run_s, 6),
        "error": error,
        "certificate": end.certificate.as_json(),
    }
