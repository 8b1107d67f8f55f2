"""The log of `serve`, from its first error to its last: as lines for people, as JSON, or as journald's records.

Runs in: supervisor.

With `log_format = "json"` each line on stderr is JSON, also the announcement, an error in the configuration, warnings,
tracebacks, and what a module prints while it is imported. Where stderr is journald's, records have their fields there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.exit_codes import CommandExit
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.supervisor.http_server_settings import ServerSettings
    from killable.supervisor.linux.journal_socket import JournalSocket

logger = logging.getLogger("killable.server")

FORMAT = "server.log_format"
_VARIABLE = "KILLABLE_SERVER__LOG_FORMAT"
_IN_FILE = re.compile(r"""^\s*(?:server\.)?log_format\s*=\s*["']json["']""", re.MULTILINE)


@contextlib.contextmanager
def reporting(as_json: bool, flags: Mapping[str, Any], file: Path | None) -> Iterator[None]:
    """Report an error of the body as its log would, and exit with its code."""

    def show(members: dict[str, Any], lines: Sequence[Text], as_json: bool) -> None:
        if as_json or not (is_json_wanted(flags, file) or _is_to_journal()):
            errors.show(members, lines, as_json)
        else:
            _write_not_started(members, lines, "json" if is_json_wanted(flags, file) else "text")

    with errors.reporting(as_json, show):
        try:
            yield
        except (KillableError, OSError, KeyboardInterrupt, click.exceptions.Exit):
            raise
        except Exception as error:  # a fault of killable, or of a library
            if not is_json_wanted(flags, file):
                raise
            with _brief_log("json"):
                logger.exception("uncaught", extra={"thread": threading.current_thread().name})
            raise click.exceptions.Exit(CommandExit.FAILED) from error


def is_json_wanted(flags: Mapping[str, Any], file: Path | None) -> bool:
    """Return whether the log is JSON, by the flag, the variable or the text of the file, which may be no TOML."""
    if sys.platform != "linux":
        return False
    from killable.supervisor.configuration import settings_file

    told = flags.get(FORMAT) or os.environ.get(_VARIABLE)
    if told:
        return bool(told == "json")
    found = settings_file.find(file, os.environ)
    try:
        return found is not None and bool(_IN_FILE.search(found.read_text("utf-8", "replace")))
    except OSError:
        return False


def _is_to_journal() -> bool:
    if sys.platform != "linux":
        return False
    return bool(stream := os.environ.get("JOURNAL_STREAM", "")) and _is_journal(stream)


def _is_journal(stream: str) -> bool:
    from killable.supervisor.linux import journal_socket

    return journal_socket.is_journal(stream, 2)


def _journal_socket() -> JournalSocket | None:
    from killable.supervisor.linux.journal_socket import JournalSocket

    return JournalSocket() if _is_to_journal() else None


@contextlib.contextmanager
def opened(server: ServerSettings) -> Iterator[int]:
    """Log as the settings say, until the end of the body. Yield the descriptor for what a dying interpreter writes.
    Raise OSError if no descriptor is left.
    """
    from killable.supervisor.linux.stray_lines import StrayLines
    from killable.supervisor.linux.stream_room import wait_for_room
    from killable.supervisor.telemetry import log_lines

    with contextlib.ExitStack() as stack:
        to_journal = _journal_socket()  # before descriptor 2 is a pipe
        stray = StrayLines() if server.log_format == "json" else None
        if stray is not None:
            stack.callback(stray.close)
        log = log_lines.configure(
            server.log_format, server.log_level, server.redact, None if stray is None else stray.stream,
            burst=server.log_burst, to_journal=to_journal, wait_for_room=wait_for_room,
        )  # fmt: skip
        stack.callback(log.close)
        if stray is not None:
            stack.enter_context(stray)
        yield 2 if stray is None else stray.descriptor


@contextlib.contextmanager
def _brief_log(log_format: Any) -> Iterator[None]:
    from killable.supervisor.linux.stream_room import wait_for_room
    from killable.supervisor.telemetry import log_lines

    log = log_lines.configure(log_format, to_journal=_journal_socket(), wait_for_room=wait_for_room)
    try:
        yield
    finally:
        log.close()


def _write_not_started(members: Mapping[str, Any], lines: Sequence[Text], log_format: str) -> None:
    """Log an error that the command would print: its lines are one field."""
    told = [line.plain for line in lines]
    hint = told.pop().removeprefix("hint: ") if len(told) > 1 and told[-1].startswith("hint: ") else None
    error = "\n".join(told).removeprefix("killable: ")
    with _brief_log(log_format):
        logger.error("not_started", extra={"code": members["code"], "error": error, "hint": hint})


class Sayings:
    """What the server says about its end: to people, or as records of the log."""

    def __init__(self, server: ServerSettings) -> None:
        self._is_json = server.log_format == "json"

    def say(self, text: str, event: str, **fields: Any) -> None:
        """Print to stderr in a thread: a terminal that is gone or blocked must not delay the end of the jobs."""
        if self._is_json:
            logger.info(event, extra=fields)
            return

        def write() -> None:
            with contextlib.suppress(OSError, ValueError):
                console.stderr_console().print(text)

        threading.Thread(target=write, name="killable-say", daemon=True).start()
