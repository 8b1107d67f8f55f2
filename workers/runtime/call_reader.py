"""The worker's end of its line: calls of an Executor, one per message.

Runs in: worker. The supervisor holds a copy of this end and may receive from it, too: the kernel gives each message to
one of them, so a call that was not received here has not begun and can be given to another worker.
"""

from __future__ import annotations

import _socket
import os
from collections import deque

from killable.workers.protocol import fd_passing
from killable.workers.protocol.call_message import LINE_BYTES_MAX
from killable.workers.protocol.message_bounds import SHARED_PARTS_MAX

_ROOM = fd_passing.room_for(2 + SHARED_PARTS_MAX)
_FLAGS = _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC


class CallReader:
    """Receives calls; owns the socket."""

    def __init__(self, descriptor: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
        self._buffer = bytearray(LINE_BYTES_MAX)
        """Kept: an allocation of this size for each message would cost its page faults."""
        self._view = memoryview(self._buffer)
        self._into = [self._buffer]
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """Return the next message; None if there is none now, or the supervisor has closed the line."""
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into(self._into, _ROOM, _FLAGS)
        except BlockingIOError:
            return None
        if ancillary:
            self._descriptors.extend(fd_passing.passed(ancillary))
        return bytes(self._view[:size]) if size else None

    def take_descriptor(self) -> int | None:
        """Return a descriptor of the last message; None if this process had no free descriptor to receive it."""
        return self._descriptors.popleft() if self._descriptors else None

    def drop_descriptors(self) -> None:
        """Close the descriptors that were not taken."""
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def close(self) -> None:
        """Close the socket and the descriptors not taken, as a process does that the job forked."""
        self._socket.close()
        self.drop_descriptors()
