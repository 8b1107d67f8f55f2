"""How long a node may work without a word from its head, and when its head may count on its end.

Runs in: supervisor. Pure: every method is told the time, in seconds of the node's or the head's own clock.

Each answer of a node has a number, which the head's next call returns. The lease runs from the moment of that answer: a
call that was on its way for a minute gives no minute more, since it can only have been sent after the answer that it
names. The head counts from when it received that answer, which is later. So the lease of a node never ends after the
time that its head computes for it, however long messages take.
"""

from __future__ import annotations

from collections import deque

from killable.workers.named_tuples import NamedTuple

DRIFT = 1.01
"""How much faster one machine's clock may run than another's."""
GUARD_MARGIN_S = 0.5
"""How much later than its node a guard ends everything. A node that runs does so itself, in order, before."""
GUARDS_LATE_S = 0.25
"""How much sooner than `GUARD_MARGIN_S` after its node a guard's may end: so seldom is it told of a new lease."""
END_S = 0.5
"""How long the end of all processes of a node may take. Measured: 0.1 s at most."""
ANSWERS_MAX = 256
"""Answers whose times are remembered. Older ones give no lease."""


class Times(NamedTuple):
    """`[cluster]` in seconds."""

    lease_s: float = 10.0
    """How long a node works without a word from its head."""
    poll_s: float = 3.0
    """How long a node waits with its answer when it has no news."""
    patience_s: float = 2.0
    """How much later than that an answer may come before the node is suspect."""


class NodeLease:
    """The lease of one node."""

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.until: float | None = None
        """When it ends. None: no head uses the node."""
        self._answers: deque[tuple[int, float]] = deque(maxlen=ANSWERS_MAX)
        self._number = 0

    def begin(self, now: float) -> None:
        """Begin the lease with the answer to a hello."""
        self.until = now + self.lease_s

    def answer(self, now: float) -> int:
        """Return the number of the answer that is given now."""
        self._number += 1
        self._answers.append((self._number, now))
        return self._number

    def renew(self, number: int) -> None:
        """Take note that the head has received the answer of this number."""
        if self.until is None:
            return
        while self._answers and self._answers[0][0] <= number:
            received, at = self._answers.popleft()
            if received == number:
                self.until = max(self.until, at + self.lease_s)

    def is_over(self, now: float) -> bool:
        return self.until is not None and now >= self.until


def end_of_node(heard: float, lease_s: float) -> float:
    """Return from when on nothing runs on a node any more: it answered at `heard`, and heard of that at most."""
    return heard + DRIFT * (lease_s + GUARD_MARGIN_S) + END_S
