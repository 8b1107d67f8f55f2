"""While an operator's request is answered the others wait: for a bounded time, and never for more than half of it.

Runs in: api, in the event loop. A kill waits for processes and threads that need a processor and the interpreter, and a
crowd of other requests keeps both busy: short turns of the loop alone do not help there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

HOLD_MAX_S = 0.25
"""Seconds for which others are held up at once: a wait for a job may take longer than that."""
SHARE = 0.5
"""Of all time, in which others may be held up."""


class Precedence:
    """Whether operators' requests hold up the others now, and who waits for their end."""

    def __init__(self) -> None:
        self._holding: set[object] = set()
        """The requests that hold up the others; one that goes on beyond the end of a hold is not in it."""
        self._credit_s = HOLD_MAX_S
        """For how long others may be held up, at `_counted_at`."""
        self._counted_at = 0.0
        self._ends_at = 0.0
        """When the hold ends at the latest (monotonic); 0: there is none."""
        self._waiting: list[Callable[[], None]] = []

    def hold(self) -> Callable[[], None]:
        """Hold up the others from now on, as long as there is credit. Return what ends that; it may be called again."""
        if not self._ends_at:
            now = asyncio.get_running_loop().time()
            self._credit_s = min(HOLD_MAX_S, self._credit_s + SHARE * (now - self._counted_at))
            self._counted_at, self._ends_at = now, now + self._credit_s
        request = object()
        self._holding.add(request)
        return partial(self._release, request)

    def defer(self, act: Callable[[], None]) -> bool:
        """Call `act` when others may go on. Return False, and do not, if they may now."""
        if not self._ends_at:
            return False
        loop = asyncio.get_running_loop()
        if loop.time() >= self._ends_at:
            self._end()
            return False
        if not self._waiting:
            loop.call_at(self._ends_at, self._on_time, self._ends_at)
        self._waiting.append(act)
        return True

    def _release(self, request: object) -> None:
        if request in self._holding:
            self._holding.remove(request)
            if not self._holding:
                self._end()

    def _on_time(self, ends_at: float) -> None:
        if ends_at == self._ends_at:
            self._end()

    def _end(self) -> None:
        now = min(self._ends_at, asyncio.get_running_loop().time())
        self._credit_s -= now - self._counted_at
        self._counted_at, self._ends_at = now, 0.0
        self._holding.clear()
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act()
