"""The readers of a live stream that wait for what comes next.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio

from killable.supervisor.jobs.wakeup_turns import wakeup_turns


class WaitingReaders:
    """Of one stream; they are woken in turns, a few in each turn of the event loop."""

    def __init__(self, stream: str) -> None:
        """`stream`: as what `wakeup_turns`, which know readers by job, know these."""
        self._stream = stream
        self._waiters: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        turns = wakeup_turns()
        for waiter in waiters:
            turns.add(self._stream, waiter, of_end=False)
        turns.serve()

    async def changed(self) -> None:
        """Return when they are woken."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
