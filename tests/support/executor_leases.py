"""An Executor's workers as they are lent to its callers' threads, and its own thread held still."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from support.waiting import Pending, until

from killable import Executor


@contextmanager
def stalled_supervisor_thread(executor: Executor) -> Iterator[None]:
    """Let the supervisor's thread do nothing."""
    reached, go = threading.Event(), threading.Event()

    def stand(_: object) -> None:
        reached.set()
        go.wait()

    executor._calls.supervisor_thread.call(stand)
    reached.wait()
    try:
        yield
    finally:
        go.set()


def wait_for_leases(executor: Executor, count: int) -> list[int]:
    """Wait until so many workers are lent; return their pids."""

    def found() -> list[int] | Pending:
        leases = [lease for lease in executor._calls._leases if not lease.is_over]
        return [lease.process.pid or 0 for lease in leases] if len(leases) == count else Pending(leases)

    return until(found, f"{count} workers are lent")
