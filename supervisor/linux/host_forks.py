"""Forks of the program that a supervisor lives in: they must not hold what is its own.

Runs in: supervisor. Part of the seam. A child that held the writing end of a worker's orders would keep that worker;
one that unregistered a descriptor would do so in the parent, with which it shares the epoll(7) instance.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

putting_off = threading.RLock()
"""While it is held no other thread forks: what was just opened is not yet known to `leave_to_parent`, and a copy of
the pipe on which `subprocess.Popen` waits for its child's exec would make that wait as long as the copy lives.
"""
os.register_at_fork(before=putting_off.acquire, after_in_parent=putting_off.release, after_in_child=putting_off.release)


def in_each_child(act: Callable[[], None]) -> None:
    """Have something done in every child of this process that `os.fork` makes, for as long as this process lives."""
    os.register_at_fork(after_in_child=act)


def leave_loop_to_parent(loop: asyncio.SelectorEventLoop) -> None:
    """Close a loop's own descriptors in a child: not `loop.close`, which would speak to the parent's epoll."""
    if loop.is_closed():
        return
    loop._selector.close()  # type: ignore[attr-defined]
    for sock in (loop._ssock, loop._csock):  # type: ignore[attr-defined]
        sock.close()
