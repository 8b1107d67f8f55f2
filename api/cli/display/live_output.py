"""Print a job's events: its output as it arrives, then how it ended.

Runs in: any machine.

    tokens ──► stdout        log lines, progress, retries, the ending ──► stderr
    with --json: every event ──► stdout, one line each
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from killable.api.cli.display.console import print_json, stderr_console, write
from killable.api.cli.display.errors import report
from killable.api.cli.display.exit_codes import CommandExit, exit_code
from killable.api.cli.display.job_state import state_text
from killable.api.cli.display.status_line import QueueWatch, StatusLine, progress_line
from killable.api.client.errors import job_error
from killable.api.client.events import BETWEEN_ATTEMPTS, Event, token_of
from killable.api.explanation import spelling
from killable.api.explanation.state_words import lasted_s
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.client.client import JobHandle


class Follower:
    """Prints one job's events; can resume after an interrupt."""

    def __init__(
        self, job: JobHandle, *, as_json: bool = False, all_events: bool = False, after: int | None = None
    ) -> None:
        self.job = job
        self.terminal: Event | None = None
        self._as_json = as_json
        self._all_events = all_events
        self._last = after
        self._tokens = 0
        self._at_line_start = True
        self._began = time.monotonic()
        self._status = StatusLine(stderr_console(soft_wrap=False))

    def follow(self) -> None:
        """Print events up to the terminal one. May be called again after an interrupt."""
        try:
            with QueueWatch(self.job, self._status) as watch:
                for event in self.job.events(after=self._last):
                    watch.stop()
                    self._last = event.id
                    if event.is_terminal:
                        self.terminal = event
                    self._print(event)
        finally:
            self._status.clear()

    def finish(self) -> int:
        """Print how the job ended, with state, tokens and time in the last line; return the exit code."""
        if self.terminal is None:
            return CommandExit.OK  # `--after` the terminal event: there is nothing to print
        ending = self.terminal.data
        error = None if self.terminal.name == "completed" else job_error(ending)
        if not self._as_json:
            if error is None and not self._tokens and not self._all_events:
                self._print_result(ending)
            self._end_line()
            if error is not None:
                report(error, as_json=False)
            stderr_console().print(self._last_line(ending))
        return CommandExit.OK if error is None else exit_code(error)

    def _print(self, event: Event) -> None:
        if event.name == "progress":
            self._status.show(progress_line(event.data))
        if self._as_json or self._all_events:
            self._status.pause()
            self._print_event(event)
            self._status.resume()
        elif event.name == "token":
            self._tokens += 1
            self._status.pause()
            self._write(token_of(event.data))
            if self._at_line_start or not sys.stdout.isatty():
                self._status.resume()
        elif event.name in BETWEEN_ATTEMPTS:
            self._status.pause()
            self._end_line()
            self._print_retry(event)
            self._status.resume()
        elif event.name == "file":
            self._status.pause()
            self._end_line()
            saved = f"saved {spelling.plain(event.data.get('name', ''))}, {spelling.size(event.data.get('size'))}"
            fetch = f"killable files {spelling.short(self.job.id)}"
            stderr_console().print(Text(f"{saved}: {fetch}", "dim"))
            self._status.resume()
        elif event.name == "log":
            self._status.pause()
            self._end_line()
            stderr_console().print(Text(str(event.data.get("text", "")), "dim"))
            self._status.resume()

    def _print_retry(self, event: Event) -> None:
        """Report another attempt: without this line the job would only look slow."""
        void = "; the output above is void, it begins again" if self._tokens else ""
        self._tokens = 0
        if event.name == "restored":
            stderr_console().print(
                Text(f"the server was restarted and runs the job again; its earlier output is lost{void}", "yellow")
            )
            return
        error, wait_s = event.data.get("error") or {}, float(event.data.get("wait_s") or 0)
        which = f"attempt {event.data.get('attempt')} of {event.data.get('attempts_max')}"
        line = f"{which} failed, {error.get('code')}: {error.get('message')}"
        stderr_console().print(Text(f"{line}; next attempt in {spelling.duration(wait_s)}{void}", "yellow"))

    def _print_event(self, event: Event) -> None:
        if self._as_json:
            print_json({"id": event.id, "event": event.name, "data": event.data}, one_line=True)
        else:
            click.echo(f"{event.id}\t{event.name}\t{json.dumps(event.data)}")

    def _write(self, token: Any) -> None:
        text = token if isinstance(token, (str, bytes)) else json.dumps(token) + "\n"
        write(text)
        if text:
            self._at_line_start = text[-1:] in ("\n", b"\n")

    def _end_line(self) -> None:
        """Start a new line in a terminal; a pipe gets the job's bytes and nothing else."""
        if not self._at_line_start and sys.stdout.isatty():
            click.echo()
            self._at_line_start = True

    def _print_result(self, ending: Mapping[str, Any]) -> None:
        """Print the result of a job that streamed nothing."""
        result = ending.get("result")
        if isinstance(result, dict) and set(result) == {"$ref"}:
            result = self.job.result(wait_s=0)
        elif isinstance(result, dict) and set(result) == {"base64"}:
            with contextlib.suppress(TypeError, ValueError):  # the job itself may have returned such an object
                result = base64.b64decode(result["base64"], validate=True)
        print_value(result)

    def _last_line(self, ending: Mapping[str, Any]) -> Text:
        try:
            lasted = lasted_s(self.job.record())
        except KillableError:
            lasted = time.monotonic() - self._began  # the server is shutting down, or no longer keeps the job
        parts = [state_text(self.terminal.name if self.terminal else "")]
        parts.append(Text(spelling.counted(int(ending.get("tokens") or 0), "token")))
        parts += [Text(spelling.duration(lasted))] if lasted is not None else []
        if self._tokens and ending.get("result") is not None:
            parts.append(Text(f"result: killable result {spelling.short(self.job.id)}", "dim"))
        return Text("  ").join(parts)


def print_value(value: Any) -> None:
    """Print a job's result on stdout: text and bytes as they are, other values as JSON, nothing for None."""
    if isinstance(value, bytes):
        write(value)
    elif isinstance(value, str):
        write(value + "\n")
    elif value is not None:
        click.echo(json.dumps(value, indent=2))
