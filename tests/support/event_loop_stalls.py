"""Stalls of a supervisor's event loop at the worst places.

Runs in: the test process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def advance_clock(seconds: float) -> None:
    """Advance the clock of the running loop only, as if its process had been suspended."""
    loop: Any = asyncio.get_running_loop()
    time_of = loop.time
    loop.time = lambda: time_of() + seconds


def stall_loop(meanwhile: Callable[[], None], seconds: Callable[[], float]) -> None:
    """Let the running loop lose its processor once, right behind its next epoll_wait(2), for that many seconds.

    The loop has not seen what happens `meanwhile` when it then runs the timers that have become due.
    """
    loop: Any = asyncio.get_running_loop()
    selector = loop._selector

    def select(_timeout: float | None = None) -> Any:
        ready = type(selector).select(selector, 0)
        del selector.select
        meanwhile()
        advance_clock(seconds())
        return ready

    selector.select = select
