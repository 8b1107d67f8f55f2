"""Exponential backoff: each retry waits twice as long as the one before.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Callable

from killable.supervisor.clock import Clock, Timer


def doubled(first_s: float, times: int, most_s: float) -> float:
    """Return the wait after failure number `times`, from 1 on: doubled each time, `most_s` at most."""
    return min(first_s * 2.0 ** min(times - 1, 60), most_s)


class Backoff:
    """Counts consecutive failures, and waits before the next try."""

    def __init__(self, clock: Clock, first_s: float, most_s: float, try_again: Callable[[], None]) -> None:
        self.failures = 0
        self._clock = clock
        self._first_s = first_s
        self._longest_s = most_s
        self._try_again = try_again
        self._timer: Timer | None = None

    @property
    def is_waiting(self) -> bool:
        return self._timer is not None

    def wait(self) -> None:
        """Schedule the next try, the later the more failures there were; harmless when one is scheduled."""
        if self._timer is None:
            delay = doubled(self._first_s, self.failures, self._longest_s)
            self._timer = self._clock.call_at(self._clock.now() + delay, self._now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> None:
        self._timer = None
        self._try_again()
