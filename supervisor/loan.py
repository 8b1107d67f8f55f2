"""An idle worker that a thread of the program may give an order itself, instead of asking the supervisor's thread to.

Runs in: supervisor (an Executor's), in its thread | a thread of the program.

    LENT ──give, by a caller's thread──► GIVEN ──come_home──► over: it has an attempt
      └──come_home──► over: it is an idle worker like others

`come_home` is called in the supervisor's thread before anything else is done with the worker, and when anything is
heard of it: so whoever gave it an order is known by then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from killable.supervisor.clock import monotonic

if TYPE_CHECKING:
    from killable.supervisor.worker import Worker


class Loan:
    """Made and ended in the supervisor's thread."""

    __slots__ = ("_adopt", "_lock", "_over", "fence", "given_at", "outlet", "worker")

    def __init__(self, worker: Worker, fence: int, outlet: int) -> None:
        self.worker = worker
        self.fence = fence
        """Of the attempt that an order to it begins."""
        self.outlet = outlet
        """A descriptor to pass with that, for a large result; -1: none."""
        self._lock = threading.Lock()
        self._adopt: Callable[[], None] | None = None
        self._over = False
        self.given_at = 0.0
        """When its order was written: from then on its time runs."""

    def give(self, order: bytes, passed: Sequence[int], adopt: Callable[[], None]) -> int:
        """Write an order, from any thread; return how much of it was written, -1: the worker is not to be had any more.

        `adopt` will be called in the supervisor's thread, to make the attempt known there. Both in one step: whoever
        stops the attempt finds its order written.
        """
        with self._lock:
            if self._over or self._adopt is not None:
                return -1
            self._adopt = adopt
            self.given_at = monotonic()
            return self.worker.process.send_now(order, passed)

    def come_home(self) -> None:
        """End it; harmless when it has ended."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self.worker.loan = None
        if self._adopt is None:
            self.worker.process.hold(None)
        else:
            self._adopt()
