"""A bare process that runs the function of a job, to be killed without killable: the limit of the machine.

Runs in: a benchmark (Linux).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

import psutil

from killable.api.cli.bench import jobs


class BareProcess:
    """A context manager; at its end nothing of the process is left."""

    def __init__(self, function: str) -> None:
        """Return when the function has begun its loop. Raise RuntimeError if it has not."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", jobs.__file__, function, str(os.getpid())], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        try:
            said = self._process.stdout.readline()
            if not said:
                raise RuntimeError(f"a bare process for {function} ended with {self._process.wait()}")
            started = json.loads(said)
        except BaseException:
            self._end([])
            raise
        children = started if isinstance(started, list) else []
        self.pids = [self._process.pid, *children]
        self._children = [psutil.Process(pid) for pid in children]

    def kill(self) -> float:
        """Send SIGKILL and wait for the process; return the seconds that both took."""
        began = time.monotonic()
        self._process.kill()
        self._process.wait()
        return time.monotonic() - began

    def left(self) -> int:
        """Return how many of its children are alive."""
        return sum(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in self._children)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(self._children)

    def _end(self, children: list[psutil.Process]) -> None:
        for process in children:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for process in children:  # orphans: this process is their subreaper, and has to reap them
            with contextlib.suppress(psutil.Error):
                process.wait()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
