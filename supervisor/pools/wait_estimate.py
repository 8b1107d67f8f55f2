"""How long a queued job will wait, estimated from the latest run times.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections import deque

RUNS_KEPT = 64
"""Per pool: enough for a mean, few enough to follow a change within minutes."""


class RunTimes:
    """The latest run times of one pool, in seconds."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._latest: deque[float] = deque(maxlen=RUNS_KEPT)

    def note(self, run_s: float) -> None:
        self._latest.append(run_s)

    def estimate_wait_s(self, ahead: int) -> float | None:
        """Return the wait in seconds behind `ahead` jobs; None while nothing has run yet."""
        if not self._latest:
            return None
        return round((ahead + 1) * sum(self._latest) / len(self._latest) / self.workers, 3)
