"""Whether new jobs are accepted, how long accepted ones may go on, and whether the server is to end.

Runs in: supervisor. Does no I/O; the owner acts when the deadline is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from killable.supervisor.clock import Clock, Timer
from killable.supervisor.jobs.job import Job
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.records import DrainProgress
from killable.workers.errors import Refused

RETRY_AFTER_S = 5
"""About the default grace period of jobs; when another server will be there is unknown."""


class Drain:
    """Accepts jobs at first. A drain can be taken back, a shutdown cannot."""

    def __init__(self) -> None:
        self.draining = False
        self.shutting_down = False
        self.grace_s: float | None = None
        """The grace period in seconds that a shutdown leaves each job; None: the job's own."""
        self.reason = ""
        """The reason of the first shutdown that gave one."""
        self._due = asyncio.Event()
        self._deadline: float | None = None
        self._timer: Timer | None = None

    def check(self) -> None:
        """Raise Refused: draining, when no new jobs are accepted."""
        if self.draining:  # also true during a shutdown
            state = "shutting down" if self.shutting_down else "being drained"
            raise Refused(
                f"the server is {state} and takes no new jobs",
                code="draining", retry_after_s=RETRY_AFTER_S, shutting_down=self.shutting_down,
            )  # fmt: skip

    def begin(self, clock: Clock, deadline_s: float | None, on_deadline: Callable[[], None]) -> None:
        """Accept no new jobs; call `on_deadline` after `deadline_s` (None: never). Another call replaces both."""
        self.draining = True
        self._disarm()
        if deadline_s is not None:
            self._deadline = clock.now() + deadline_s
            self._timer = clock.call_at(self._deadline, on_deadline)

    def shut_down(self, grace_s: float | None, reason: str = "") -> None:
        """Begin a shutdown, which cannot be taken back. Another call may only shorten the grace period."""
        self.draining = self.shutting_down = True
        self.reason = self.reason or reason
        if grace_s is not None:
            self.grace_s = grace_s if self.grace_s is None else min(grace_s, self.grace_s)

    def end(self) -> None:
        """Accept jobs again. Raise Refused: draining, during a shutdown."""
        if self.shutting_down:
            self.check()
        self.draining = False
        self._disarm()

    def set_due(self) -> None:
        """Let `until_due` return: the jobs have had their time, and the server is to end now."""
        self._disarm()
        self._due.set()

    async def until_due(self) -> None:
        await self._due.wait()

    def left_s(self, now: float) -> float | None:
        """Return the seconds until the deadline; None: there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def progress(self, active: Sequence[Job], now: float) -> DrainProgress:
        """Return how far it is, with the jobs that have not ended."""
        queued = sum(job.state is State.QUEUED for job in active)
        return DrainProgress(
            draining=self.draining,
            shutting_down=self.shutting_down,
            deadline_s=self.left_s(now),
            running=len(active) - queued,
            queued=queued,
        )

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._deadline = None
