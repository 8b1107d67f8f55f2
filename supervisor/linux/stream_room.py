"""Waits for room in a stream, which other programs may share.

Runs in: supervisor, in the log's thread. Behind `ports`.
"""

from __future__ import annotations

import select


def wait_for_room(descriptor: int, wait_s: float) -> None:
    """Wait until something can be written to it, or never will be, but at most for so many seconds. Blocks.

    For a descriptor that does not block: any program that has the stream, a shell's next command too, can make it so
    for all.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll(wait_s * 1000)
