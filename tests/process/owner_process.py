"""Runs support/owner_program.py, a process that owns a supervisor, and finds what it leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from job_runs import HOSTILE_POOL
from support import processes
from support.forked_command import ForkedProcess

OWNER = str(Path(processes.__file__).parent / "owner_program.py")
CLEANUP_S = 10.0
"""What the specification allows from the death of the owner to the death of everything else."""


class Owner:
    """The program of support/owner_program.py, running: a fork of a process that has imported what it imports.

    `arguments`: the members of its JSON object. `stderr`: a descriptor; ours by default.
    """

    def __init__(self, arguments: dict[str, Any], stderr: int = 2) -> None:
        stdin, self._stdin = os.pipe()
        try:
            self._process = ForkedProcess(
                [json.dumps(arguments)], Path.cwd(), os.environ, stdin=stdin, stderr=stderr, script=OWNER
            )
        finally:
            os.close(stdin)
        self.pid = self._process.pid
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._close_stdin()
        self._process.__exit__()

    def _close_stdin(self) -> None:
        descriptor, self._stdin = self._stdin, -1
        if descriptor != -1:
            os.close(descriptor)

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
        self._close_stdin()
        return self._process.wait(30)


@contextmanager
def owner(
    pools: dict[str, Any] | None = None,
    jobs: list[Any] | None = None,
    stderr: int = 2,
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
    with Owner({"settings": {}, "pools": pools, "jobs": jobs or [], **arguments}, stderr) as started:
        yield started


def other_processes(pid: int) -> list[processes.ProcessInfo]:
    """Return what this test run has started besides the owner, dead ones that only wait for init to reap apart."""
    return [seen for seen in processes.started_by_tests() if seen.pid != pid and seen.state != "Z"]
