"""The supervisor's ends of a worker's line, through which an Executor's calls go, one per message.

Runs in: supervisor, any thread of the program. Behind `ports`.

The line is a SOCK_SEQPACKET socket (unix(7)). The supervisor holds its own end and a copy of the worker's: it receives
from that what the worker has not received yet. The kernel gives each message to one receiver, so nobody need ask
whether a call has begun.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from itertools import repeat, takewhile
from operator import itemgetter

from killable.workers.protocol import fd_passing
from killable.workers.protocol.call_message import LINE_BYTES_MAX
from killable.workers.protocol.message_bounds import SHARED_PARTS_MAX

_ROOM = fd_passing.room_for(2 + SHARED_PARTS_MAX)
_MESSAGE = itemgetter(0)
"""Of what `recvmsg` returns: the message; empty where the other end is closed."""
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class CallSocket:
    """Both ends of one line; owns the descriptors. Its user holds a lock around every call."""

    def __init__(self, ours: int, theirs: int) -> None:
        self._ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, ours)
        self._theirs = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, theirs)
        self._ours.setblocking(False)
        self._taken: list[tuple[bytes, list[tuple[int, int, bytes]], int, object]] = []
        """What `recvmsg` returned for each message that was taken back."""
        self._looked_at = 0
        """Of so many of them the descriptors are closed."""

    def send(self, message: bytes, passed: Sequence[int], sent: list[int]) -> None:
        """Send one message with descriptors, and append its length to `sent`. Raise OSError; BlockingIOError: no room.

        An interrupt (Ctrl-C) may come at any moment: in one call into C the message is sent and noted, or neither.
        """
        if passed:
            sent.extend(map(self._ours.sendmsg, ((message,),), (fd_passing.rights(passed),)))
        else:
            sent.extend(map(self._ours.send, (message,)))

    def unreceived_bytes(self) -> int:
        """Return the size of the messages that the worker has not received."""
        try:
            (size,) = struct.unpack("i", fcntl.ioctl(self._theirs, termios.FIONREAD, bytes(4)))
        except (OSError, ValueError):  # the line is closed
            return 0
        return int(size)

    def take_back(self) -> list[bytes]:
        """Receive every message that the worker has not received; return all that were since `forget_taken`.

        Descriptors that come along are closed. An interrupt may come at any moment: in one call into C all messages are
        received and kept.
        """
        received = map(self._theirs.recvmsg, repeat(LINE_BYTES_MAX), repeat(_ROOM), repeat(_FLAGS))
        try:
            self._taken.extend(takewhile(_MESSAGE, received))
        except OSError:  # there is none now, or the line is closed
            pass
        for _, ancillary, _, _ in self._taken[self._looked_at :]:
            self._looked_at += 1
            for descriptor in fd_passing.passed(ancillary):
                os.close(descriptor)
        return list(map(_MESSAGE, self._taken))

    def forget_taken(self) -> None:
        """Forget the messages that were taken back."""
        self._taken, self._looked_at = [], 0

    def close(self) -> None:
        """Close both ends; may be called twice."""
        self._ours.close()
        self._theirs.close()
