"""The lanes to an Executor's workers, and a way to stall the Executor's supervisor thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from support.waiting import Pending, until

from killable import Executor
from killable.supervisor.pools.worker import WorkerStage


@contextmanager
def stalled_supervisor_thread(executor: Executor) -> Iterator[None]:
    """Block the supervisor's thread inside the `with`."""
    reached, go = threading.Event(), threading.Event()

    def stand() -> None:
        reached.set()
        go.wait()

    executor._tasks.supervisor_thread.call(stand)
    reached.wait()
    try:
        yield
    finally:
        go.set()


def wait_for_lanes(executor: Executor, count: int) -> list[int]:
    """Wait until that many workers have a lane and no call; return their pids."""

    def found() -> list[int] | Pending:
        lanes = [lane for lane in executor._tasks._lanes if lane.is_idle]
        return [lane.process.pid or 0 for lane in lanes] if len(lanes) == count else Pending(lanes)

    return until(found, f"{count} workers have a lane")


def ready_workers(executor: Executor) -> set[int | None]:
    """Return the workers that are ready for a call."""
    supervisor = executor._tasks.supervisor_thread._supervisor
    assert supervisor is not None
    (pool,) = supervisor._fleet
    return {worker.process.pid for worker in list(pool.workers.values()) if worker.stage is WorkerStage.IDLE}
