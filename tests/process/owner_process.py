"""Runs support/owner_program.py, a process that owns a supervisor, and finds what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from job_runs import HOSTILE_POOL
from support import processes

OWNER = str(Path(processes.__file__).parent / "owner_program.py")
CLEANUP_S = 10.0
"""What the specification allows from the death of the owner to the death of everything else."""


class Owner:
    """The program of support/owner_program.py, running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        assert process.stdout is not None
        self.report: dict[str, Any] = {}

    def read_report(self) -> None:
        """Wait for its line."""
        assert self._process.stdout is not None
        self.report = json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        """Return when it is dead: from then on counts what is allowed to the others."""
        self._process.kill()
        self._process.wait()

    def close(self) -> int:
        """Let it close its supervisor and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(30)


@contextmanager
def owner(
    pools: dict[str, Any] | None = None,
    jobs: list[Any] | None = None,
    stderr: int | None = None,
    start_method: str = "fork",
    **arguments: Any,
) -> Iterator[Owner]:
    """Run the program, the workers of its pools started by this method; afterwards it is gone, one way or the other."""
    hostile = {"hostile": {**HOSTILE_POOL, "workers": 12, "spares": 1}}
    pools = {
        name: {"start_method": start_method, **members}
        for name, members in {**hostile, **(pools or {})}.items()
        if members["modules"]
    }
    arguments = {"settings": {}, "pools": pools, "jobs": jobs or [], **arguments}
    command = [sys.executable, OWNER, json.dumps(arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            yield Owner(process)
        finally:
            process.kill()


def other_processes(pid: int) -> list[processes.ProcessInfo]:
    """Return what this test run has started besides the owner, dead ones that only wait for init to reap apart."""
    return [seen for seen in processes.started_by_tests() if seen.pid != pid and seen.state != "Z"]
