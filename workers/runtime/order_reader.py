"""Read a worker's orders: frames, some of which carry descriptors.

Runs in: worker. They come through a stream socket, because a pipe cannot pass descriptors (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import _socket
import os
import select
from collections import deque

from killable.workers.protocol import fd_passing
from killable.workers.protocol.frames import Decoder, Frame
from killable.workers.protocol.message_bounds import SHARED_PARTS_MAX
from killable.workers.protocol.messages import Kind

READ_BYTES = 1 << 16
_ROOM = fd_passing.room_for(2 + SHARED_PARTS_MAX)
"""Space for the descriptors of one order: a read ends after the data that they were sent with (unix(7))."""


class OrderReader:
    """Reads orders from a socket, which it owns. Only `wait` blocks."""

    def __init__(self, descriptor: int, line: int | None = None) -> None:
        """`line` is a descriptor that `wait` watches, too."""
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        if line is not None:
            self._poll.register(line, select.POLLIN)
        self._line = line
        self._decoder = Decoder()
        self._waiting: deque[Frame] = deque()
        self._descriptors: deque[int] = deque()

    def wait(self) -> bool:
        """Wait for an order or a call; return False when the supervisor has closed the orders. Raise FrameError."""
        while not self._waiting:
            ready = [descriptor for descriptor, _ in self._poll.poll()]
            if ready != [self._line] and not self._read():
                return False
            if self._line in ready:
                return True
        return True

    def next(self) -> Frame | None:
        """Return the next order; None if there is none now."""
        return self._waiting.popleft() if self._waiting else None

    def order_for(self, fence: int) -> Frame | None:
        """Return the order that the signal announced, if it is there: STOP, else the next EXPIRE, which is removed."""
        self._read()  # one read is enough: the order is written before the signal, and nothing longer precedes it
        expire = None
        for frame in self._waiting:
            if frame.kind == Kind.STOP and frame.fence == fence:
                return frame
            if frame.kind == Kind.EXPIRE and frame.fence == fence and expire is None:
                expire = frame
        if expire is not None:
            self._waiting.remove(expire)
        return expire

    def take_descriptor(self) -> int | None:
        """Return a descriptor of the last order; None if this process had no free descriptor to receive it."""
        return self._descriptors.popleft() if self._descriptors else None

    def close(self) -> None:
        """Close the socket and the descriptors not taken, as a process does that the job forked."""
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _read(self) -> bool:
        """Read once, without blocking. Return False at end-of-file."""
        try:
            chunk, ancillary, _, _ = self._socket.recvmsg(READ_BYTES, _ROOM, _socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        self._descriptors.extend(fd_passing.passed(ancillary))
        self._waiting.extend(self._decoder.feed(chunk))
        return bool(chunk)
