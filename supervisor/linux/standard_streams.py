"""The three standard streams: a program may have been started without them, and others may share them.

Runs in: supervisor (`killable run`; the log's thread waits for room). Behind `ports`.
"""

from __future__ import annotations

import os
import select


def fill_closed() -> None:
    """Open /dev/null where a standard stream is closed: else a pipe of this process would get its number.

    It closes on exec, so that a command has closed what this process had closed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def wait_for_room(descriptor: int, wait_s: float) -> None:
    """Wait until something can be written to it, or never will be, but at most for so many seconds. Blocks.

    For a descriptor that does not block: any program that has the stream, a shell's next command too, can make it so
    for all.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll(wait_s * 1000)
