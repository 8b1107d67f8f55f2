"""Waits, outside the lock of a stream of the program, until the stream can be written to.

Runs in: supervisor, in the relay's thread. Behind `ports`.

Who writes to a full pipe keeps the lock of the stream's buffer meanwhile (CPython's `BufferedWriter`). The main thread
needs it to print, and at its end: it waits for it in C, where no signal interrupts it, so that Ctrl-C would do nothing
until somebody reads.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import struct
import termios
from collections.abc import Iterator
from typing import Any

PIECE_CHARACTERS = 2048
"""A longer text is written in pieces, which end with a line where they can."""
FULL_PARTS = 4
"""A pipe is written to when a fourth of it is taken at most. What the program has in the stream's buffers goes out with
a piece, up to 16 KiB, and half of the pipe's pages may hold little: only then does it surely not wait.
"""
LOOK_MS_MAX = 50
"""No call waits until a pipe is emptier than full. So it is looked at again, at once and then less and less often."""


def pieces(file: Any, text: str) -> Iterator[str]:
    """Yield a text in pieces, each one once `file` has room for it; as it is, at once, if that has no descriptor."""
    try:
        # Not its own: that of Jupyter's streams is where the kernel's output went before.
        descriptor: int = file.buffer.fileno()
    except Exception:
        yield text
        return
    while text:
        _wait_for_room(descriptor)
        end = PIECE_CHARACTERS
        if len(text) > end:
            end = text.rfind("\n", 0, end) + 1 or end
        yield text[:end]
        text = text[end:]


def _wait_for_room(descriptor: int) -> None:
    """Return when it can be written to, or is broken or closed, which the write tells."""
    _polled(descriptor, select.POLLOUT).poll()
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return
    most = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) // FULL_PARTS
    broken, pause_ms = _polled(descriptor, 0), 1
    while _unread_bytes(descriptor) > most and not broken.poll(pause_ms):
        pause_ms = min(2 * pause_ms, LOOK_MS_MAX)


def _polled(descriptor: int, events: int) -> select.poll:
    poll = select.poll()
    poll.register(descriptor, events)
    return poll


def _unread_bytes(descriptor: int) -> int:
    (size,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return int(size)
