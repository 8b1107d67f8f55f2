"""Hear from a job, wherever it runs, that it is there: the pid and the moment, in a datagram.

Runs in: a trial.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import NamedTuple, Self

HEAR_S = 60.0
"""For a job that a warm pool takes in milliseconds; a pool that has to be made loads for a second first."""


class Said(NamedTuple):
    pid: int
    at_ns: int
    """Monotonic."""
    word: str


class Ear:
    """An address that jobs are given; abstract, so that no file is left (unix(7)). A context manager."""

    def __init__(self) -> None:
        self.address = f"killable-bench-{os.getpid()}-{secrets.token_hex(4)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address)
        self._socket.settimeout(HEAR_S)

    def hear(self) -> Said:
        """Wait for the next that speaks. Raise TimeoutError."""
        pid, at_ns, word = self._socket.recv(256).decode().split(" ", 2)
        return Said(int(pid), int(at_ns), word)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
