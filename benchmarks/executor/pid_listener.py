"""Report pids and times from processes to the trial that measures them, as datagrams.

Runs in: a trial (PidListener) | worker, of killable's Executor or of a peer (`report`). Standard library only.
"""

from __future__ import annotations

import os
import socket
import time
from typing import NamedTuple, Self

REPORT_S = 60.0
"""Longest wait for a report. A warm pool needs milliseconds; a new one first loads for a second."""
JOB = "job"
OWNER = "owner"
"""The role of a process whose death is to end all workers."""


class Report(NamedTuple):
    pid: int
    at_ns: int
    """CLOCK_MONOTONIC when it was sent."""
    role: str


def report(address: str, role: str = JOB, pid: int | None = None) -> None:
    """Send the pid of this process, or another one, to the listener at this address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(f"{pid or os.getpid()} {time.monotonic_ns()} {role}".encode(), "\0" + address)


class PidListener:
    """Receives reports at an abstract address, which leaves no file behind (unix(7)). A context manager."""

    def __init__(self) -> None:
        self.address = f"killable-bench-{os.getpid()}-{os.urandom(4).hex()}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address)
        self._socket.settimeout(REPORT_S)

    def receive(self) -> Report:
        """Wait for the next report. Raise TimeoutError."""
        pid, at_ns, role = self._socket.recv(256).decode().split(" ", 2)
        return Report(int(pid), int(at_ns), role)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
