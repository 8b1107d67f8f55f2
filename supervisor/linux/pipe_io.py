"""One end of a worker's pipe or socket in the event loop: bounded reads, and writes that never block.

Runs in: supervisor. Behind `ports`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from killable.workers.protocol.message_bounds import PIPE_BYTES, WIDE_PIPE_BYTES

READ_BYTES = 8192
"""Maximum per pipe and iteration of the loop: with eight flooding workers on two cores a kill was 22 ms late (p99) at
8 KiB, 42 ms at 64 KiB.
"""
LARGE_READ_BYTES = WIDE_PIPE_BYTES
"""The same within one longer value: its bytes are only stored, which takes no time."""


class PipeReader:
    """The reading end of a pipe; owns the descriptor. Before `start` only `drain` reads."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        sink: Callable[[bytes], None],
        around_read: AbstractContextManager[object] | None = None,
    ) -> None:
        """`around_read` is entered before what has arrived is read, and left when the sink has it."""
        self._loop = loop
        self._descriptor = descriptor
        self._sink = sink
        self._around_read = around_read
        self.read_bytes = READ_BYTES
        os.set_blocking(descriptor, False)

    def start(self) -> None:
        """Read whenever the pipe is readable. Raise OSError."""
        self._loop.add_reader(self._descriptor, self._read_some if self._around_read is None else self._read_within)

    def _read_within(self) -> None:
        assert self._around_read is not None
        with self._around_read:
            self._read_some()

    def _read_some(self) -> bool:
        """Read once; return whether the pipe was found empty."""
        bytes_max = self.read_bytes
        try:
            data = os.read(self._descriptor, bytes_max)
        except BlockingIOError:
            return True
        if data:
            self._sink(data)
        else:
            self._loop.remove_reader(self._descriptor)  # a pipe at end-of-file stays readable
        return len(data) < bytes_max

    def pause(self) -> None:
        """Read only in `drain` from here on."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)

    def drain(self, bytes_max: int = 1 << 20) -> bool:
        """Read until end-of-file or EAGAIN (the pipe's own capacity bounds it), but at most `bytes_max`. Return whether
        the pipe was found empty.
        """
        while self._descriptor >= 0 and bytes_max > 0:
            try:
                data = os.read(self._descriptor, min(PIPE_BYTES, bytes_max))
            except BlockingIOError:
                return True
            if not data:
                return True
            bytes_max -= len(data)
            self._sink(data)
        return False

    def close_in_child(self) -> None:
        """Close in a fork of this process, without the loop: its epoll(7) instance is shared with the parent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._sink, self._around_read = _nowhere, None  # whose methods they are has this reader


def _nowhere(_data: bytes) -> None:
    """Take what a closed reader has read: nothing."""


class PipeWriter:
    """The writing end of a worker's orders socket; owns it. Bytes that do not fit are kept and written later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self._loop = loop
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        self._socket.setblocking(False)
        self._waiting: deque[tuple[memoryview, Sequence[int]]] = deque()
        """Bytes not written yet, each with duplicated descriptors to pass along."""
        self.is_closed = False

    def write(self, data: bytes, passed: Sequence[int] = ()) -> None:
        """Write bytes and pass descriptors with the first of them; the caller still owns the descriptors."""
        if self.is_closed:
            return
        written = 0 if self._waiting else self._try(data, passed)
        if written == len(data) or self.is_closed:
            return
        try:
            # Duplicates: the caller may close its own, and their numbers be reused, before they are passed.
            kept = () if written else _copies(passed)
        except OSError:
            self.close()  # no descriptor is left to duplicate one: the same as if it cannot be passed
            return
        self._waiting.append((memoryview(data)[written:], kept))
        if len(self._waiting) == 1:
            try:
                self._loop.add_writer(self._socket, self._write_more)
            except OSError:
                self.close()  # the rest could never be written

    def _write_more(self) -> None:
        data, passed = self._waiting[0]
        written = self._try(data, passed)
        if not written:
            return  # no room yet, or closed
        _close_all(passed)
        self._waiting.popleft()
        if written < len(data):
            self._waiting.appendleft((data[written:], ()))
        elif not self._waiting:
            self._loop.remove_writer(self._socket)

    def _try(self, data: bytes | memoryview, passed: Sequence[int]) -> int:
        """Write as much as there is room for; close if nothing can be written any more."""
        try:
            return self._send(data, passed)
        except OSError:
            # The reader is gone, or nothing can be passed to it (ETOOMANYREFS, ENOBUFS): the close makes it exit.
            self.close()
            return 0

    def _send(self, data: bytes | memoryview, passed: Sequence[int]) -> int:
        """Return the number of bytes written, 0 if there is no room. Raise OSError if they cannot be sent."""
        try:
            return socket.send_fds(self._socket, [data], passed) if passed else self._socket.send(data)
        except BlockingIOError:
            return 0

    def close_in_child(self) -> None:
        """Close in a fork of this process, without the loop."""
        self.is_closed = True
        self._socket.close()
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        for _, passed in self._waiting:
            _close_all(passed)
        self._waiting.clear()

    def close(self) -> None:
        if not self.is_closed:
            if self._waiting:
                self._loop.remove_writer(self._socket)
            self.is_closed = True
            self._socket.close()
            self._drop_waiting()


def _copies(descriptors: Sequence[int]) -> Sequence[int]:
    """Duplicate descriptors. Raise OSError, leaving no duplicate open."""
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))
    except OSError:
        _close_all(copies)
        raise
    return copies


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
