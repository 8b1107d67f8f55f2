"""Are new jobs taken, how long may the accepted ones go on, and is the server to end?

Runs in: supervisor. Does no I/O; what is due at the deadline is the owner's to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from killable.supervisor.clock import Clock, Timer
from killable.workers.errors import Refused

RETRY_AFTER_S = 5
"""About as long as jobs have for their clean-up by default; nobody knows when another server is there."""


class Drain:
    """Open at first. A drain can be taken back, a shutdown cannot."""

    def __init__(self) -> None:
        self.draining = False
        self.shutting_down = False
        self.grace_s: float | None = None
        """What a shutdown leaves each job; None: its own grace."""
        self.reason = ""
        """Of the first shutdown that gave one."""
        self._due = asyncio.Event()
        self._deadline: float | None = None
        self._timer: Timer | None = None

    def check(self) -> None:
        """Raise Refused `draining` when no new jobs are taken."""
        if self.draining:  # as it is during a shutdown, too
            state = "shutting down" if self.shutting_down else "being drained"
            raise Refused(f"the server is {state} and takes no new jobs", code="draining", retry_after_s=RETRY_AFTER_S)

    def begin(self, clock: Clock, deadline_s: float | None, on_deadline: Callable[[], None]) -> None:
        """Take no new jobs; call `on_deadline` after so many seconds, never for None. A later call sets it anew."""
        self.draining = True
        self._disarm()
        if deadline_s is not None:
            self._deadline = clock.now() + deadline_s
            self._timer = clock.call_at(self._deadline, on_deadline)

    def shut_down(self, grace_s: float | None, reason: str = "") -> None:
        """Nothing takes it back. A grace only ever gets shorter."""
        self.draining = self.shutting_down = True
        self.reason = self.reason or reason
        if grace_s is not None:
            self.grace_s = grace_s if self.grace_s is None else min(grace_s, self.grace_s)

    def end(self) -> None:
        """Take jobs again. Raise Refused `draining` during a shutdown."""
        if self.shutting_down:
            self.check()
        self.draining = False
        self._disarm()

    def set_due(self) -> None:
        """The jobs have had their time: the server is to end now."""
        self._disarm()
        self._due.set()

    async def until_due(self) -> None:
        await self._due.wait()

    def left_s(self, now: float) -> float | None:
        """Return the seconds until the deadline; None where there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - now)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._deadline = None
