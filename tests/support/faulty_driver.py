"""Launchers for a driver's process that go wrong: what their process then sends is no answer.

Runs in: the process of a driver of a test.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.socket_carrier import SocketLauncher

from killable.supervisor.cluster import messages
from killable.supervisor.cluster.carrier import ClusterReplaced, ClusterUnreachable, Machine
from killable.supervisor.cluster.framed_messages import SIZE


def framed(packed: bytes) -> bytes:
    return SIZE.pack(len(packed)) + packed


FAULTS = {
    "bytes of something else": b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8,
    "a frame that is no message": framed(b"[]\n"),
    "a message with too many levels": framed(b"[" * 100_000 + b"\n"),
    "an answer without a number": framed(messages.pack({"members": []})),
    "a failure without words": framed(messages.pack({"n": 1, "failure": "gone"})),
    "half a message": framed(messages.pack({"n": 1}, [b"x" * 1000]))[:500],
}
SENT = "faults-sent"
ARMED = "armed"
"""A file of the folder: until it is there all is well."""


class FaultyLauncher(SocketLauncher):
    """Each process of a driver sends the next of `FAULTS` in place of telling the machines; the one after the last has
    machines that are none. Then all is well. A file of the folder has one byte for each that was sent.
    """

    def __init__(self, folder: Path, *rest: Any) -> None:
        super().__init__(folder, *rest)
        self._armed, self._sent = folder / ARMED, folder / SENT
        self._sent.touch()

    def _next(self) -> int:
        with self._sent.open("ab") as file:
            file.write(b"x")
        return self._sent.stat().st_size - 1

    async def members(self) -> Sequence[Machine]:
        found: Any = await super().members()
        if not self._armed.exists():
            return found  # type: ignore[no-any-return]
        if self._sent.stat().st_size < len(FAULTS):
            fault = list(FAULTS)[self._next()]
            os.write(int(sys.argv[1]), FAULTS[fault])
            if fault == "half a message":
                os.kill(os.getpid(), signal.SIGKILL)
        elif self._sent.stat().st_size == len(FAULTS):
            self._next()
            found = [*found, _NoMachine()]
        return found  # type: ignore[no-any-return]


class _NoMachine:
    def _asdict(self) -> dict[str, Any]:
        return {"name": "b", "colour": "green"}


class NoCluster(SocketLauncher):
    async def open(self) -> None:
        raise ClusterUnreachable("there is no cluster here")


REPLACED = "replaced"


class ReplacedCarrier(SocketLauncher):
    """Once there is a file in the folder it is connected to a cluster that is no more, until it connects anew."""

    def __init__(self, folder: Path, *rest: Any) -> None:
        super().__init__(folder, *rest)
        self._replaced = folder / REPLACED
        self._replaced.unlink(missing_ok=True)

    async def members(self) -> Sequence[Machine]:
        if self._replaced.exists():
            raise ClusterReplaced("it is another cluster now")
        return await super().members()
