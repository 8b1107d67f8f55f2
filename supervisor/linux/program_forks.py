"""Forks of the host program: a child must not keep the supervisor's descriptors.

Runs in: supervisor. Behind `ports`. A child that held the writing end of a worker's orders would keep that worker
alive. A child that unregistered a descriptor would do so for the parent too: they share the epoll(7) instance.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

forks_postponed = threading.RLock()
"""While it is held no other thread forks. Descriptors that were just opened are not yet known to `close_in_child`. And
`subprocess.Popen` waits on a pipe for its child's exec: it would wait as long as a fork holds a copy of that pipe.
"""
os.register_at_fork(
    before=forks_postponed.acquire, after_in_parent=forks_postponed.release, after_in_child=forks_postponed.release
)


def in_each_child(act: Callable[[], None]) -> None:
    """Run `act` in every child that `os.fork` makes of this process. It cannot be unregistered."""
    os.register_at_fork(after_in_child=act)


def leave_loop_to_parent(loop: asyncio.SelectorEventLoop) -> None:
    """Close a loop's own descriptors in a child. `loop.close` would also change the parent's epoll instance."""
    if loop.is_closed():
        return
    loop._selector.close()  # type: ignore[attr-defined]
    for sock in (loop._ssock, loop._csock):  # type: ignore[attr-defined]
        sock.close()
