"""What `multiprocessing` says of a worker of an Executor: its name, that the program is its parent, and their key.

Runs in: zygote | worker. Code that runs in both asks `multiprocessing.parent_process()`, or the name of the process,
which of them it is in, and log records have the name as `processName`. It is told when a program imports it.
"""

from __future__ import annotations

import os
from typing import Any

from killable.workers.runtime.import_hooks import when_imported

_program = 0
_authkey = b""
_name = ""
"""Empty in the zygote."""


def descend_from(program: int, authkey: bytes) -> None:
    """Make the process with this pid the parent. With its key this process can use its managers."""
    global _program, _authkey
    _program, _authkey = program, authkey
    when_imported("multiprocessing.process", _tell)


def take_name(worker_id: str) -> None:
    """Name this worker as `multiprocessing` names its processes: `Worker-3`."""
    global _name
    _name = f"Worker-{worker_id.rpartition('-')[2]}"
    when_imported("multiprocessing.process", _tell)


def _tell(process: Any) -> None:
    own = process.current_process()
    own.authkey = _authkey
    own.name = _name or own.name
    process._parent_process = _parent(process, _program)


def _parent(process: Any, pid: int) -> Any:
    class Program(process._ParentProcess):  # type: ignore[misc]
        """The process that has made the Executor."""

        def is_alive(self) -> bool:
            return True  # else this one would not live

        def join(self, timeout: float | None = None) -> None:
            """Wait until it has ended, which no worker sees for long; at most `timeout` seconds."""
            from multiprocessing.connection import wait

            descriptor = os.pidfd_open(pid)
            try:
                wait([descriptor], timeout)
            finally:
                os.close(descriptor)

    return Program("MainProcess", pid, None)
