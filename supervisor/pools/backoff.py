"""Exponential backoff: how long a pool waits before it starts a zygote or a worker again, and jobs before a retry.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Callable

from killable.supervisor.clock import Clock, Timer

RESTART_S, RESTART_S_MAX = 0.05, 5.0
"""First and longest wait of a pool. Temporary faults are mostly over by then; lasting ones cost no core."""


def doubled(first_s: float, times: int, most_s: float) -> float:
    """Return the wait after failure number `times`, from 1 on: doubled each time, `most_s` at most."""
    return min(first_s * 2.0 ** min(times - 1, 60), most_s)


class Backoff:
    """Counts a pool's consecutive failures, and waits before the next try."""

    def __init__(self, clock: Clock, try_again: Callable[[], None]) -> None:
        self.failures = 0
        self._clock = clock
        self._try_again = try_again
        self._timer: Timer | None = None

    @property
    def is_waiting(self) -> bool:
        return self._timer is not None

    def wait(self) -> None:
        """Schedule the next try, the later the more failures there were; harmless when one is scheduled."""
        if self._timer is None:
            delay = doubled(RESTART_S, self.failures, RESTART_S_MAX)
            self._timer = self._clock.call_at(self._clock.now() + delay, self._now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> None:
        self._timer = None
        self._try_again()
