"""A node that gets no more jobs, and until when what it runs may go on.

Runs in: supervisor, on the head. Does no I/O; the owner acts when the deadline is over.
"""

from __future__ import annotations

from collections.abc import Callable

from killable.supervisor.clock import Clock, Timer

LEAVE_EARLY_S = 10.0
"""How long before Ray takes a machine away what runs there is stopped: for its grace, and for its end to be told."""
DRAINED = "an operator has drained it"


class NodeDrain:
    """None at first. Unlike that of a whole server it refuses nobody, and nothing waits for its end."""

    def __init__(self) -> None:
        self.reason = ""
        """Why there is one; empty: there is none."""
        self._deadline: float | None = None
        self._timer: Timer | None = None

    def begin(self, clock: Clock, reason: str, deadline_s: float | None, on_deadline: Callable[[], None]) -> None:
        """Begin, and call `on_deadline` after `deadline_s` (None: never). Another call replaces both."""
        self.end()
        self.reason = reason
        if deadline_s is not None:
            self._deadline = clock.now() + deadline_s
            self._timer = clock.call_at(self._deadline, on_deadline)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._deadline = None
        self.reason = ""

    def left_s(self, now: float) -> float | None:
        """Return the seconds until the deadline; None: there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - now)


def seconds_before(leaves_at: float, realtime: float) -> float | None:
    """Return how long what runs on a machine may go on that Ray takes away at a time (0: at no known time)."""
    return max(0.0, leaves_at - realtime - LEAVE_EARLY_S) if leaves_at else None
