"""Report errors: an exit code, with a message on stderr or one JSON document on stdout.

Runs in: any machine.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from killable.api.cli.display.certificate import death_line
from killable.api.cli.display.console import discard, print_json, print_lines, stderr_console
from killable.api.cli.display.error_hints import certificate_of, hint_for
from killable.api.cli.display.exit_codes import CommandExit, exit_code
from killable.api.explanation import spelling
from killable.workers.error_codes import CODES
from killable.workers.errors import KillableError

Show = Callable[[dict[str, Any], Sequence[Text], bool], None]
"""Shows an error: its members, its lines for people, and whether JSON was asked for."""


@contextmanager
def reporting(as_json: bool, showing: Show | None = None) -> Iterator[None]:
    """Report an error of the body, by `show` or `showing`, and exit with its code; an interrupt exits with 130."""
    try:
        yield
    except KillableError as error:
        report(error, as_json, showing)
        raise click.exceptions.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(CommandExit.INTERRUPTED) from None
    except BrokenPipeError:
        raise  # the reader of stdout has gone: click exits silently
    except OSError as error:
        members = {"code": "os", "message": str(error), "retryable": False}
        (showing or show)(members, [Text.assemble(("killable: ", "bold"), str(error))], as_json)
        raise click.exceptions.Exit(CommandExit.OS) from None


def report(error: KillableError, as_json: bool, showing: Show | None = None) -> None:
    """Print an error: one JSON document on stdout, or a message on stderr."""
    lines = [Text.assemble(("killable: ", "bold"), _headline(error))]
    lines += [Text(line, "dim") for line in _details(error)]
    hint = hint_for(error)
    if hint:
        lines.append(Text.assemble(("hint: ", "bold cyan"), hint))
    (showing or show)(error_members(error), lines, as_json)


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


def show(members: dict[str, Any], lines: Sequence[Text], as_json: bool) -> None:
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
    certificate = certificate_of(error)
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
