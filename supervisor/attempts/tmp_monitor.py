"""Have the temporary directory of a busy worker measured now and then, and stop its attempt at `tmp_bytes`.

Runs in: supervisor; the measurement in a thread, for a job may leave a million files. A disk takes a gigabyte or two in
the time between two looks: the bound is over the limit by as much. Jobs without a temporary directory share a timer.
"""

from __future__ import annotations

from killable.supervisor.attempts.resource_monitor import StopCallback, not_any_more
from killable.supervisor.clock import Clock, Timer
from killable.supervisor.models import Verdict
from killable.supervisor.ports import Process
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.authoring.units import size
from killable.workers.headroom_over_limits import HARD_FACTOR

LOOK_S = 0.5
COST_SHARE = 20
"""A walk through many files is not repeated before this many times its duration."""


class TmpMonitor:
    """Looks from the order until it is closed, the grace included: a job that goes on writing loses it."""

    def __init__(self, process: Process, limits: Limits, clock: Clock, stop: StopCallback) -> None:
        self._process = process
        self._limit = limits["tmp_bytes"]
        self._clock = clock
        self._stop = stop
        self._timer: Timer | None = None
        self._kept, self._kept_in = 0, ""
        self._stop_requested = self._closed = False

    def begin(self) -> None:
        if self._limit is not None:
            self._timer = self._clock.call_at_beats(LOOK_S, self._has_none)

    def note_kept(self, size: int, folder: str) -> None:
        """Count the files that were taken over from the job: there are so many bytes of them in this folder. They are
        measured with the others from then on, since the job may have them open, and go on writing.
        """
        self._kept, self._kept_in = size, folder
        self._check(size)

    def close(self) -> None:
        """Stop looking; may be called twice."""
        self._closed = True
        self._stop = not_any_more
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _has_none(self) -> bool:
        """Have the temporary directory measured; return whether there is none."""
        assert self._limit is not None
        at_most = int(self._limit * HARD_FACTOR) + 1
        return not (self._closed or self._process.measure_tmp(self._kept_in, at_most, self._on_measured))

    def _look(self) -> None:
        self._timer = None
        if self._has_none():
            self.begin()

    def _on_measured(self, used: int, took_s: float) -> None:
        if not self._closed:
            self._timer = self._clock.call_at(self._clock.now() + max(LOOK_S, COST_SHARE * took_s), self._look)
            self._check(used)

    def _check(self, used: int) -> None:
        if self._limit is not None and used > self._limit and not self._closed:
            saved = f", {size(self._kept)} of it in files that it saved" if self._kept else ""
            words = f"tmp_bytes of {size(self._limit)} was reached: its temporary directory had {size(used)}{saved}"
            facts = {"limit": "tmp_bytes", "limit_bytes": self._limit, "measured_bytes": used, "message": words}
            beyond = used > self._limit * HARD_FACTOR
            # The first finding sends SIGTERM: a job that then stops writing keeps its grace.
            verdict = Verdict("limit.tmp", by="supervisor", facts=facts)
            self._stop(verdict, 0.0 if beyond and self._stop_requested else None)
            self._stop_requested = True
