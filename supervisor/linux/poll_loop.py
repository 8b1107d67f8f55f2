"""An event loop of one thread for one command: descriptors and timers. asyncio takes longer to import than all of a
short command.

Runs in: supervisor (`killable run`). Behind `ports`.
"""

from __future__ import annotations

import heapq
import itertools
import math
import select
from collections.abc import Callable

from killable.supervisor import clock


class ScheduledCall:
    """A call that is due at a time; implements `clock.Timer`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class PollLoop:
    """Calls back when descriptors are readable, and at times in CLOCK_MONOTONIC seconds."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._scheduled: list[tuple[float, int, ScheduledCall]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return clock.monotonic()

    def call_at(self, when: float, callback: Callable[[], None]) -> ScheduledCall:
        call = ScheduledCall(callback)
        heapq.heappush(self._scheduled, (when, next(self._order), call))
        return call

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._poll.register(descriptor, select.POLLIN)
        self._readers[descriptor] = callback

    def remove_reader(self, descriptor: int) -> None:
        if self._readers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def run_until(self, is_over: Callable[[], bool]) -> None:
        """Call back until it is over."""
        while not is_over():
            for descriptor, _ in self._poll.poll(self._wait_ms()):
                if descriptor in self._readers:
                    self._readers[descriptor]()
            while self._scheduled and self._scheduled[0][0] <= self.time():
                callback = heapq.heappop(self._scheduled)[2].callback
                if callback is not None:
                    callback()

    def _wait_ms(self) -> int | None:
        while self._scheduled and self._scheduled[0][2].callback is None:
            heapq.heappop(self._scheduled)
        if not self._scheduled:
            return None
        return min(max(0, math.ceil((self._scheduled[0][0] - self.time()) * 1000)), 1 << 30)
