"""A node that gets no more jobs, and until when what it runs may go on.

Runs in: supervisor, on the head. Does no I/O; the owner acts when the deadline is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from killable.supervisor.clock import Clock, Timer

LEAVE_EARLY_S = 10.0
"""How long before Ray takes a machine away what runs there is stopped: for its grace, and for its end to be told."""
DRAINED = "an operator has drained it"
LEAVES = "Ray takes the machine away"


class NodeDrain:
    """None at first; an operator's, Ray's, or both: each has its deadline, and the earliest counts. Unlike that of a
    whole server it refuses nobody, and nothing waits for its end.
    """

    def __init__(self, clock: Clock, on_deadline: Callable[[], None]) -> None:
        self._clock = clock
        self._on_deadline = on_deadline
        self._deadlines: dict[str, float] = {}
        """By reason; infinite: none."""
        self._timer: Timer | None = None

    @property
    def reason(self) -> str:
        """Why there is one, or the one that is over first; empty: there is none."""
        return min(self._deadlines, key=self._deadlines.__getitem__, default="")

    def begin(self, reason: str, deadline_s: float | None) -> None:
        """Begin one for a reason, with a deadline after `deadline_s` (None: never). One for the same is replaced."""
        self._deadlines[reason] = math.inf if deadline_s is None else self._clock.now() + deadline_s
        self._watch()

    def end(self, reason: str) -> None:
        self._deadlines.pop(reason, None)
        self._watch()

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = self.left_s
        self._timer = None if left_s is None else self._clock.call_at(self._clock.now() + left_s, self._on_deadline)

    @property
    def left_s(self) -> float | None:
        """The seconds until the deadline; None: there is none."""
        deadline = min(self._deadlines.values(), default=math.inf)
        return None if math.isinf(deadline) else max(0.0, deadline - self._clock.now())


def seconds_before(leaves_at: float, realtime: float) -> float | None:
    """Return how long what runs on a machine may go on that Ray takes away at a time (0: at no known time)."""
    return max(0.0, leaves_at - realtime - LEAVE_EARLY_S) if leaves_at else None
