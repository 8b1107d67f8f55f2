"""An idle worker that a thread of the program may give an order itself, instead of asking the supervisor's thread to.

Runs in: supervisor (an Executor's), in its thread | a thread of the program.

    LENT ──give, by any thread──► GIVEN ──end: the call's only words were its result and that the worker is free──► over
      └──come_home──► over          └──adopt_call: any other word of it, its exit, a stop──► over: it is an attempt

In between nothing is known of the call but the order: no entry, no attempt, no certificate is made for one that runs
through. Whatever else happens makes an attempt of it first, which then is like any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from killable.supervisor.clock import monotonic
from killable.supervisor.models import WorkerId
from killable.supervisor.ports import Process


class LeasedTask(Protocol):
    """What a lent worker was given, in the supervisor's thread."""

    def adopt(self) -> None:
        """Make it known as an attempt, before anything else is done with its worker."""
        ...

    def complete(self, result: bytes) -> None:
        """It is over, and its worker is free."""
        ...


class LeaseHolder(Protocol):
    """Who has calls for lent workers (an Executor), in the supervisor's thread."""

    def on_leased(self, lease: Lease) -> None: ...
    def on_pool_broken(self) -> None:
        """No worker will come for those that wait."""
        ...

    @property
    def waiting(self) -> int:
        """How many calls wait for a worker."""
        ...


class Lease:
    """Made and ended in the supervisor's thread."""

    __slots__ = (
        "_call", "_lock", "_on_over", "_over", "_rest",
        "fence", "given_at", "is_written", "process", "quiet", "result_buffer", "worker_id",
    )  # fmt: skip

    def __init__(
        self,
        worker_id: WorkerId,
        process: Process,
        fence: int,
        result_buffer: int,
        *,
        quiet: bool,
        on_over: Callable[[], None],
    ) -> None:
        """`on_over` is called once, in the supervisor's thread, when the worker is no longer lent."""
        self.worker_id = worker_id
        self.process = process
        self._on_over: Callable[[], None] | None = on_over
        self.fence = fence
        """Of the attempt that an order to it begins."""
        self.result_buffer = result_buffer
        """A descriptor to pass with that, for a large result; -1: none."""
        self.quiet = quiet
        """Whether its pool need not hear at once that it is busy: there is a spare for it already."""
        self._lock = threading.RLock()  # a finalizer of the program's may come in the middle
        self._call: LeasedTask | None = None
        self._over = False
        self._rest: tuple[bytes, Sequence[int]] = b"", ()
        """Of an order that was written in part: it goes before anything else that the worker is told."""
        self.is_written = False
        """Whether it is known how much of the order was written: an interrupt may come right before that."""
        self.given_at = 0.0
        """When its order was written."""

    @property
    def is_over(self) -> bool:
        return self._over

    @property
    def is_given(self) -> bool:
        return self._call is not None

    def has(self, call: LeasedTask) -> bool:
        """Tell whether the worker was given this call, and nothing has been heard of it."""
        return self._call is call

    @property
    def has_rest(self) -> bool:
        """Whether a part of the order is still to be written: when its call is adopted."""
        return bool(self._rest[0])

    def give(self, order: bytes, passed: Sequence[int], call: LeasedTask, *, is_watched: bool = False) -> bool:
        """Write an order, from any thread; False: the worker is not to be had any more, or has ended.

        Both in one step: whoever stops the call finds its order written. `is_watched`: what the call takes is counted.
        """
        with self._lock:
            if self._over or self._call is not None:
                return False
            process = self.process
            if is_watched:
                process.note_base()
            self._call = call
            self.given_at = monotonic()
            written = process.send_now(order, passed)
            if written is None and process.killed_for is None:
                self._over, self._call, self.given_at = True, None, 0.0
                return False
            written = written or 0  # who was killed because of this very call was given it
            self._rest = order[written:], () if written else passed
            self.is_written = True
            return True

    def promote(self) -> None:
        """Something is heard of the worker, or is to be done with its call: if there is one, it is an attempt now."""
        call = self.end()
        if call is not None:
            rest, self._rest = self._rest, (b"", ())
            if rest[0]:
                self.process.send(*rest)
            call.adopt()

    def end(self) -> LeasedTask | None:
        """End a loan that was given; return the call, None: there is none, or it is an attempt."""
        with self._lock:
            if self._over or self._call is None:
                return None
            self._over = True
            call, self._call = self._call, None  # they refer to each other
        self._let_go()
        return call

    def come_home(self) -> None:
        """End it, given or not: no caller's thread is to meet the worker any more. Harmless when it has ended."""
        with self._lock:
            if self._call is None and self._on_over is not None:  # over it is, too, where an order found no reader
                self._over = True
                self._let_go()
                self.process.hold(None)
        self.promote()

    def _let_go(self) -> None:
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over()
