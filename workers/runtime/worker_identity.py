"""What `multiprocessing` says of a worker of an Executor: its name, and that the program is its parent.

Runs in: zygote | worker. Code that runs in both asks `multiprocessing.parent_process()`, or the name of the process,
which of them it is in, and log records have the name as `processName`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
from typing import Any

_ParentProcess: Any = multiprocessing.process._ParentProcess  # type: ignore[attr-defined]


class Program(_ParentProcess):  # type: ignore[misc]
    """The process that has made the Executor."""

    def __init__(self, pid: int) -> None:
        super().__init__("MainProcess", pid, None)

    def is_alive(self) -> bool:
        return True  # else this one would not live

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, which no worker sees for long; at most `timeout` seconds."""
        from multiprocessing.connection import wait

        descriptor = os.pidfd_open(self.pid)
        try:
            wait([descriptor], timeout)
        finally:
            os.close(descriptor)


def descend_from(program: int) -> None:
    """Make the process with this pid the parent."""
    multiprocessing.process._parent_process = Program(program)  # type: ignore[attr-defined]


def take_name(worker_id: str) -> None:
    """Name this worker as `multiprocessing` names its processes: `Worker-3`."""
    multiprocessing.current_process().name = f"Worker-{worker_id.rpartition('-')[2]}"
