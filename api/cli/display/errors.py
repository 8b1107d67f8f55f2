"""Report errors: an exit code, with a message on stderr or one JSON document on stdout.

Runs in: any machine.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from killable.api.cli.display import spelling
from killable.api.cli.display.certificate import death_line
from killable.api.cli.display.console import discard, print_json, print_lines, stderr_console
from killable.api.cli.display.exit_codes import CommandExit, exit_code
from killable.api.cli.display.remedies import limit_of
from killable.workers.errors import CODES, JobError, KillableError

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
    "unknown_node": "killable nodes lists the nodes",
    "spawn": "killable doctor checks this machine; the server's log has details",
    "unkillable": "a process in uninterruptible sleep (state D): a hung disk or network file system is the usual cause",
    "unauthorized": "set KILLABLE_API_KEY to an API key of the server",
}

_EARLY_KILL_HINT = (
    "native code did not react to SIGTERM within ack_s: raise it with submit --ack-s, @job(ack_s=...) or [limits]"
)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Report an error of the body and exit with its code; an interrupt exits with 130."""
    try:
        yield
    except KillableError as error:
        report(error, as_json)
        raise click.exceptions.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(CommandExit.INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of stdout has gone: click exits silently
    except OSError as error:
        members = {"code": "os", "message": str(error), "retryable": False}
        _print(members, [Text.assemble(("killable: ", "bold"), str(error))], as_json)
        raise click.exceptions.Exit(CommandExit.OS) from None


def report(error: KillableError, as_json: bool) -> None:
    """Print an error: one JSON document on stdout, or a message on stderr."""
    lines = [Text.assemble(("killable: ", "bold"), _headline(error))]
    lines += [Text(line, "dim") for line in _details(error)]
    hint = _hint(error)
    if hint:
        lines.append(Text.assemble(("hint: ", "bold cyan"), hint))
    _print(error_members(error), lines, as_json)


def odd_answer(address: str, error: Exception) -> KillableError:
    """Return the error for an answer whose members are missing or of other types, by where that was noticed."""
    from killable.api.client.errors import Unreachable

    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__}: {error}, at {Path(at.filename).name}:{at.lineno}"
    return Unreachable(
        f"an answer of {address} does not have what one of a killable server of this version has ({where}): "
        "is it another server or version? If not, it is a fault of this command",
        url=address,
    )


def _print(members: dict[str, Any], lines: Sequence[Text], as_json: bool) -> None:
    """Print an error where it belongs, or on the other stream if that one cannot be written to: its disk is full."""
    if as_json:
        try:
            print_json({"error": members})
        except BrokenPipeError:
            raise
        except OSError:
            discard(sys.stdout)
        else:
            return
    try:
        for line in lines:
            stderr_console().print(line)
    except OSError:
        discard(sys.stderr)
        if not as_json:
            with contextlib.suppress(OSError):
                print_lines(lines)


def error_members(error: KillableError) -> dict[str, Any]:
    """Return an error in the JSON form of job records and HTTP problems."""
    try:
        retryable = error.retryable
    except KeyError:  # a code of a newer server
        retryable = False
    return {"code": error.code, "message": error.message, "retryable": retryable, **error.facts}


def _headline(error: KillableError) -> Text:
    if error.code == "cancelled":
        by, reason = error.facts.get("by"), error.facts.get("reason")
        words = f"cancelled{f' by {by}' if by else ''}{f': {reason}' if reason else ''}"
        return Text(spelling.plain(words), "bold yellow")
    faults = _faults(error)
    if faults:
        words = _as_option(faults[0]) if len(faults) == 1 else f"{len(faults)} faults"
        return Text.assemble((f"{error.code}: ", "bold red"), words)
    if error.code not in CODES:  # an error of the command itself: its code adds nothing to the message
        return Text(error.message)
    return Text.assemble((f"{error.code}: ", "bold red"), error.message)


def _details(error: KillableError) -> Iterator[str]:
    """Yield details after the message: further faults, the traceback, how the process died, its stack."""
    faults = _faults(error)
    if len(faults) > 1:
        yield from (f"  {_as_option(fault)}" for fault in faults)
    if error.facts.get("traceback"):
        yield from str(error.facts["traceback"]).rstrip().splitlines()
    certificate = _certificate(error)
    if "requested" in certificate:
        yield death_line(certificate)
    if certificate.get("stack"):
        yield from str(certificate["stack"]).rstrip().splitlines()


def _faults(error: KillableError) -> list[Mapping[str, Any]]:
    """Return the faults of a request or an input."""
    faults = error.facts.get("faults")
    return faults if error.code in ("invalid", "input.invalid") and isinstance(faults, list) else []


def _as_option(fault: Mapping[str, Any]) -> str:
    """Return a fault in terms of the command line: `-i text: is required`, `--run-s: must be more than 0`."""
    place, pointer = fault.get("in"), str(fault.get("pointer", ""))
    path = pointer.split("/")[1:]
    if place == "input" or path[:1] == ["input"]:
        name = "/".join(path if place == "input" else path[1:])
        where = f"-i {name}" if name else "the input"
    elif path[:1] == ["limits"] or place == "query":
        where = f"--{path[-1].replace('_', '-')}"
    elif path[:1] in (["tags"], ["nodes"]):
        where = f"--{'tag' if path[0] == 'tags' else 'nodes'} {'/'.join(path[1:])}".rstrip()
    else:
        where = f"{place} {pointer}".strip()
    return f"{where}: {fault.get('message', '')}"


def _hint(error: KillableError) -> str:
    if error.code == "cancelled" and _certificate(error).get("early_kill"):
        return _EARLY_KILL_HINT
    if error.code == "invalid" and isinstance(error, JobError):
        return ""
    limit = limit_of(error.code, error.facts)
    if limit and error.code.startswith(("timeout.", "limit.")) and (limit == "total_s" or error.code not in _HINTS):
        path = " PATH=SECONDS" if limit == "operation_s" else ""
        more = f"raise {limit} with submit --{limit.replace('_', '-')}{path}, in @job or in killable.toml"
        return f"{more}; killable explain {spelling.short(str(error.facts.get('job_id')))} suggests a value"
    return _HINTS.get(error.code, "")


def _certificate(error: KillableError) -> Mapping[str, Any]:
    certificate = error.facts.get("certificate")
    return certificate if isinstance(certificate, Mapping) else {}
