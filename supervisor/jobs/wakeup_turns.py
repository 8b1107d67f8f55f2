"""Who is woken in which turn of the event loop: a few of those who wait for jobs, and jobs take turns.

Runs in: supervisor, in its event loop. Thousands may wait for one job, or read its stream. To wake all of them in one
turn held up the loop, and with it every kill, until the last of them had its answer. Who comes late misses nothing: a
reader takes all events that have come meanwhile at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from killable.supervisor.jobs.round_robin import RoundRobin

WAKES_MAX = 2
"""In one turn: 0.2 ms of readers that keep up, a millisecond of requests that waited for an end."""


Waiter = tuple[asyncio.Future[None], bool]
"""Who waits, and whether it is urgent."""


class WakeupTurns:
    """Those who are to be woken in one loop. While nobody has to wait for a turn, they are woken at once."""

    def __init__(self) -> None:
        self._of_ends: RoundRobin[asyncio.Future[None]] = RoundRobin()
        self._of_events: RoundRobin[asyncio.Future[None]] = RoundRobin()
        self._left = WAKES_MAX
        self._has_begun = False
        """Whether one was woken in this turn."""
        self._is_deferred = False
        self.defer: Callable[[Callable[[], None]], bool] | None = None
        """Returns True if readers have to wait, and calls what it was given when they may go on."""

    def add(self, job_id: str, waiters: list[Waiter], *, of_end: bool) -> None:
        """Wake waiters in their turns. Those who wait for an end go before readers, and of a job the urgent ones first.

        Call `serve` after it. The list is empty then.
        """
        queue = self._of_ends if of_end else self._of_events
        for waiter, is_urgent in waiters:
            if not waiter.done():
                queue.add(job_id, waiter, is_urgent=is_urgent)
        waiters.clear()

    async def turn(self, job_id: str) -> None:
        """Wait until one who has more of a job to read may go on, as readers who were woken do.

        A crowd of late readers, whose sockets take all, would otherwise go on in each turn of the loop.
        """
        waiter = asyncio.get_running_loop().create_future()
        self.add(job_id, [(waiter, False)], of_end=False)
        self.serve()
        await waiter

    def serve(self) -> None:
        """Wake as many as may be woken in this turn."""
        while self._left and (queue := self._next()):
            if not (waiter := queue.take()).done():  # else it has given up
                waiter.set_result(None)
                self._left -= 1
                if not self._has_begun:
                    self._has_begun = True
                    asyncio.get_running_loop().call_soon(self._next_turn)

    def _next(self) -> RoundRobin[asyncio.Future[None]] | None:
        """Return whose turn it is, if anybody's."""
        if self._of_ends:
            return self._of_ends
        if not self._of_events or self._is_deferred:
            return None
        if self.defer is not None and self.defer(self._go_on):
            self._is_deferred = True
            return None
        return self._of_events

    def _go_on(self) -> None:
        self._is_deferred = False
        self.serve()

    def _next_turn(self) -> None:
        self._left, self._has_begun = WAKES_MAX, False
        self.serve()


async def wait_among(waiters: list[Waiter], *, is_urgent: bool = False) -> None:
    """Wait among those who are woken together: who takes them from this list and adds them to the turns ends it."""
    waiter = asyncio.get_running_loop().create_future(), is_urgent
    waiters.append(waiter)
    try:
        await waiter[0]
    finally:
        if waiter in waiters:
            waiters.remove(waiter)


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, WakeupTurns] = WeakKeyDictionary()


def wakeup_turns() -> WakeupTurns:
    """Return those of the running loop."""
    loop = asyncio.get_running_loop()
    found = _by_loop.get(loop)
    if found is None:
        found = _by_loop[loop] = WakeupTurns()
    return found
