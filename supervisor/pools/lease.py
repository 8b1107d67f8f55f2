"""A lease: an idle worker that a thread of the program may give an order without asking the supervisor's thread.

Runs in: supervisor (an Executor's), in its thread | a thread of the program.

    LEASED ──give, by any thread──► GIVEN ──end: the only frames were the task's RESULT and IDLE──► over
      └──come_home──► over            └──promote: any other frame, an exit, a stop──► over: the task is an attempt

While a lease is given, the supervisor has only the order: a task that runs through gets no job, attempt or
certificate. Anything else promotes it to an ordinary attempt first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from killable.supervisor.clock import monotonic
from killable.supervisor.models import WorkerId
from killable.supervisor.ports import Process


class LeasedTask(Protocol):
    """The task that a leased worker was given. Its methods are called in the supervisor's thread."""

    def adopt(self) -> None:
        """Make the task an attempt, before anything else is done with its worker."""
        ...

    def complete(self, result: bytes) -> None:
        """Finish the task with its result. Its worker is free already."""
        ...


class LeaseHolder(Protocol):
    """Has tasks for leased workers (an Executor). Its methods are called in the supervisor's thread."""

    def on_leased(self, lease: Lease) -> None: ...
    def on_early_output(self, data: bytes, stream: str) -> None:
        """Take what a worker has printed before it was ready: its initializer."""
        ...

    def on_pool_broken(self) -> None:
        """Take note that no worker will come for the waiting tasks."""
        ...

    @property
    def waiting(self) -> int:
        """Return how many tasks wait for a worker."""
        ...


class Lease:
    """Created and ended in the supervisor's thread."""

    __slots__ = (
        "_lock",
        "_on_over",
        "_over",
        "_task",
        "_unsent",
        "fence",
        "given_at",
        "is_written",
        "process",
        "quiet",
        "result_buffer",
        "worker_id",
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
        """`on_over` is called once, in the supervisor's thread, when the lease ends."""
        self.worker_id = worker_id
        self.process = process
        self._on_over: Callable[[], None] | None = on_over
        self.fence = fence
        """The fence of the attempt that the order begins."""
        self.result_buffer = result_buffer
        """A descriptor to pass with the order, for a large result; -1: none."""
        self.quiet = quiet
        """Whether the pool need not learn at once that the worker is busy: there is a spare for it already."""
        self._lock = threading.RLock()  # reentrant: a finalizer of the program may run while it is held
        self._task: LeasedTask | None = None
        self._over = False
        self._unsent: tuple[bytes, Sequence[int]] = b"", ()
        """The unsent part of an order that was written in part; `promote` sends it before anything else."""
        self.is_written = False
        """Whether it is known how much of the order was written; an interrupt may come right before that."""
        self.given_at = 0.0
        """When the order was written, in monotonic seconds; 0.0: not yet."""

    @property
    def is_over(self) -> bool:
        return self._over

    @property
    def is_given(self) -> bool:
        return self._task is not None

    def has(self, call: LeasedTask) -> bool:
        """Return whether the worker was given this task and has reported nothing of it yet."""
        return self._task is call

    @property
    def has_unsent(self) -> bool:
        """Return whether a part of the order is still unsent."""
        return bool(self._unsent[0])

    def give(self, order: bytes, passed: Sequence[int], call: LeasedTask, *, is_watched: bool = False) -> bool:
        """Write an order, from any thread. Return False when the worker is no longer available or has ended.

        Atomic: a stop of the task finds its order written. `is_watched`: note the base of its resource use.
        """
        with self._lock:
            if self._over or self._task is not None:
                return False
            process = self.process
            if is_watched:
                process.note_base()
            self._task = call
            self.given_at = monotonic()
            written = process.send_now(order, passed)
            if written is None and process.killed_for is None:
                self._over, self._task, self.given_at = True, None, 0.0
                return False
            written = written or 0  # a worker that was killed to stop this task was given it
            self._unsent = order[written:], () if written else passed
            self.is_written = True
            return True

    def promote(self) -> None:
        """Make the task, if there is one, an attempt: its worker has reported something, or is to be acted on."""
        call = self.end()
        if call is not None:
            rest, self._unsent = self._unsent, (b"", ())
            if rest[0]:
                self.process.send(*rest)
            call.adopt()

    def end(self) -> LeasedTask | None:
        """End a lease that was given and return its task; None: it has none, or the task is an attempt."""
        with self._lock:
            if self._over or self._task is None:
                return None
            self._over = True
            call, self._task = self._task, None  # breaks a reference cycle
        self._notify_over()
        return call

    def revoke_lease(self) -> None:
        """End the lease, given or not: no thread of the program may use the worker any more. May be called twice."""
        with self._lock:
            if self._task is None and self._on_over is not None:  # also after `give` found no reader
                self._over = True
                self._notify_over()
                self.process.hold(None)
        self.promote()

    def _notify_over(self) -> None:
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over()
