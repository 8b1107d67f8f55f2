"""One end of a worker's pipe in the event loop: bounded reads, writes that never block.

Runs in: supervisor. Part of the seam.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

READ_BYTES = 8192
"""Per pipe and turn of the loop: with eight flooding workers on two cores a kill was 22 ms late (p99) at 8 KiB, 42
ms at 64 KiB.
"""


class Reader:
    """The reading end of a pipe; owns the descriptor."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, sink: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._sink = sink
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, self._read_once)

    def _read_once(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._sink(data)
        else:
            self._loop.remove_reader(self._descriptor)  # end-of-file stays readable

    def drain(self, bytes_max: int = 1 << 20) -> None:
        """Read all that is there now: to end-of-file or EAGAIN (the pipe's own capacity bounds it), at most
        `bytes_max`.
        """
        while self._descriptor >= 0 and bytes_max > 0:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                return
            bytes_max -= len(data)
            self._sink(data)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Writer:
    """The writing end of a pipe; owns the descriptor. What does not fit is kept and written when it does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._rest = bytearray()
        os.set_blocking(descriptor, False)

    def write(self, data: bytes) -> None:
        if self._descriptor < 0:
            return
        if self._rest:
            self._rest += data
            return
        written = self._try(data)
        if written < len(data) and self._descriptor >= 0:
            self._rest += memoryview(data)[written:]
            self._loop.add_writer(self._descriptor, self._write_more)

    def _write_more(self) -> None:
        del self._rest[: self._try(self._rest)]
        if not self._rest and self._descriptor >= 0:
            self._loop.remove_writer(self._descriptor)

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self.close()  # the reader is gone: its exit is on the way
            return 0

    def close(self) -> None:
        if self._descriptor >= 0:
            if self._rest:
                self._loop.remove_writer(self._descriptor)
                self._rest.clear()
            os.close(self._descriptor)
            self._descriptor = -1
