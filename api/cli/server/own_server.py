"""Start a server for the duration of a `with` block, and verify afterwards that no process of it is left.

`demo` and `bench` use it.

Runs in: any process of a person's (Linux).
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from killable.api.cli.display.exit_codes import CommandExit
from killable.workers.errors import KillableError
from killable.workers.runtime import process_setup

START_S = 120.0
"""Seconds for the server to start: reading a model from a slow disk takes longest."""
STOP_S = 30.0


class NotStarted(KillableError):
    """The server did not start; the message contains what it printed."""

    code = "not_started"
    exit_code = CommandExit.OS


class OwnServer:
    """`killable serve` on a free port of 127.0.0.1, with the built-in job types or those of a file.

    This process becomes a subreaper: processes that the server leaves behind become its children. Start it in the main
    thread of a process without others.
    """

    def __init__(self, jobs: Path | None = None, settings: Mapping[str, object] | None = None) -> None:
        """`settings`: by the name of their variable, without `KILLABLE_`."""
        self.url = ""
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="killable-own-")
        self._stderr_file: IO[bytes] | None = None
        self._jobs = [] if jobs is None else [str(jobs)]
        self._settings = {f"KILLABLE_{name}": str(value) for name, value in (settings or {}).items()}

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        process_setup.adopt_orphans()
        try:
            self._start()
            self.url = str(self._read_announcement()["url"])
        except BaseException:
            self.stop()
            self._folder.cleanup()
            raise
        return self

    def _start(self) -> None:
        parent = os.getpid()
        # An empty folder and no KILLABLE_ variables: regardless of local settings.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KILLABLE_")}
        self._stderr_file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "killable.api.cli", "serve", *self._jobs, "--port", "0", "--json"],
            cwd=self._folder.name,
            env=environment | self._settings,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the server
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr_file,
            preexec_fn=lambda: process_setup.die_with(
                parent
            ),  # safe in a process with one thread (see subprocess's warning)
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        self._folder.cleanup()

    def stop(self, *, at_once: bool = False) -> list[str]:
        """Stop the server and return the processes that are left, zombies included. May be called twice.

        `at_once`: without the grace of its jobs.
        """
        process = self._process
        if process is not None and self.exit_code is None:
            for _ in range(2 if at_once else 1):  # the second one leaves no grace
                process.terminate()
            try:
                self.exit_code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                self.exit_code = process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._stderr_file is not None:
            self._stderr_file.close()
            self._stderr_file = None
        return [described(child) for child in psutil.Process().children(recursive=True)]

    def _read_announcement(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(START_S) else b""
        try:
            announcement: dict[str, Any] = json.loads(line)
        except ValueError:
            self._process.terminate()  # one that has said nothing yet would go on
            said = (line + self._process.stdout.read()).decode("utf-8", "replace")
            raise NotStarted(f"the server did not start: {_told(said) or self._captured_stderr()}") from None
        return announcement

    def _captured_stderr(self) -> str:
        assert self._stderr_file is not None
        self._stderr_file.seek(0)
        return self._stderr_file.read().decode("utf-8", "replace").strip() or "(it printed nothing)"


def _told(said: str) -> str:
    """Return the message of an error that `serve --json` has printed, or what it printed instead."""
    try:
        return str(json.loads(said)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return said.strip()


def described(process: psutil.Process) -> str:
    try:
        return f"pid {process.pid} {process.status()} {' '.join(process.cmdline())[:80] or process.name()}"
    except psutil.Error:
        return f"pid {process.pid}"
