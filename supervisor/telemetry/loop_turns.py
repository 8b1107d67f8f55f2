"""How long the event loop was busy with one turn, in which it could neither see a deadline nor send a signal.

Runs in: supervisor. Measured at each turn by the loop's selector, without a timer: an idle server does not wake up.
"""

from __future__ import annotations

import asyncio
import selectors
from weakref import WeakKeyDictionary

from killable.supervisor.clock import monotonic

WINDOW_S = 60.0
"""The longest turn is told for the last one to two windows."""

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, MeasuredSelector] = WeakKeyDictionary()


class MeasuredSelector(selectors.DefaultSelector):
    """A selector that measures the time between its waits."""

    def __init__(self) -> None:
        super().__init__()
        self._woken_at: float | None = None
        self._window_at = monotonic()
        self._longest = self._longest_before = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        now = monotonic()
        turn_s = 0.0 if self._woken_at is None else now - self._woken_at
        if turn_s > self._longest or now - self._window_at > WINDOW_S:  # mostly not: a request takes several turns
            self._note(turn_s, now)
        try:
            return super().select(timeout)
        finally:
            self._woken_at = monotonic()

    def longest_s(self) -> float:
        """Return the longest turn of the last one to two windows, in seconds. The one under way does not count."""
        self._note(0.0, monotonic())
        return max(self._longest, self._longest_before)

    def forget(self) -> None:
        """Forget all turns up to now, the one under way too: those of a start, in which nothing is to be killed yet."""
        self._woken_at = None
        self._longest = self._longest_before = 0.0

    def _note(self, turn_s: float, now: float) -> None:
        if now - self._window_at > WINDOW_S:
            is_recent = now - self._window_at <= 2 * WINDOW_S
            self._longest_before, self._longest = self._longest if is_recent else 0.0, 0.0
            self._window_at = now
        self._longest = max(self._longest, turn_s)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop whose turns are measured."""
    selector = MeasuredSelector()
    loop = asyncio.SelectorEventLoop(selector)
    _turns[loop] = selector
    return loop


def longest_s() -> float:
    """Return the longest recent turn of the running loop, in seconds; 0 if it is not measured."""
    selector = _turns.get(asyncio.get_running_loop())
    return 0.0 if selector is None else selector.longest_s()


def forget() -> None:
    """Forget the turns of the running loop up to now, if they are measured."""
    selector = _turns.get(asyncio.get_running_loop())
    if selector is not None:
        selector.forget()
