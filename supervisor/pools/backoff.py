"""When what has failed is tried again: each time after twice as long.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Callable

from killable.supervisor.clock import Clock, Timer


def doubled(first_s: float, times: int, most_s: float) -> float:
    """Return the wait after the first time, the second, …: twice as long each time, and never longer than `most_s`."""
    return min(first_s * 2.0 ** min(times - 1, 60), most_s)


class Backoff:
    """Counts failures in a row, and waits behind them."""

    def __init__(self, clock: Clock, first_s: float, most_s: float, try_again: Callable[[], None]) -> None:
        self.failures = 0
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._try_again = try_again
        self._timer: Timer | None = None

    @property
    def is_waiting(self) -> bool:
        return self._timer is not None

    def wait(self) -> None:
        """Try again, later the more failures there were; not twice."""
        if self._timer is None:
            delay = doubled(self._first_s, self.failures, self._most_s)
            self._timer = self._clock.call_at(self._clock.now() + delay, self._now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> None:
        self._timer = None
        self._try_again()
