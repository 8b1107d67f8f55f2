"""An Executor of several tests, each of which leaves it as if it had not been there."""

from __future__ import annotations

import os

from support.executor_lanes import stalled_supervisor_thread
from support.processes import ProcessInfo, descendants, read_process
from support.waiting import Pending, until, until_empty

from killable import Executor
from killable.supervisor.pools.pool_sizing import forks_wanted
from killable.supervisor.pools.worker import WorkerStage


class SharedExecutor:
    """What there is of it between two tests: a guard, a zygote, and workers without a call."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        zygote = executor.submit(os.getppid).result()
        seen = read_process(zygote)
        assert seen is not None
        self.guard = seen.parent
        self._zygote = zygote
        self.tidy()

    def tidy(self) -> None:
        """End what a test has left to run; then its guard, its zygote and idle workers are there, and nothing else.

        None is forked any more: its descriptors would be taken for those of the next test, which may not share.
        """
        for future in list(self.executor._tasks._under_way):
            future.cancel(grace_s=0)
        until_empty(lambda: dict(self.executor._tasks._under_way), "no call is under way")
        until(self._rests, "only the guard, the zygote and idle workers are there")

    def _rests(self) -> bool | Pending:
        with stalled_supervisor_thread(self.executor):  # who is idle has all that belongs to it between its turns only
            return self._rests_now()

    def _rests_now(self) -> bool | Pending:
        supervisor = self.executor._tasks.supervisor_thread._supervisor
        assert supervisor is not None
        (pool,) = supervisor._fleet
        workers = list(pool.workers.values())
        known = {self._zygote} | {worker.process.pid for worker in workers}
        strangers: list[ProcessInfo] = [seen for seen in descendants(self.guard) if seen.pid not in known]
        rest = all(worker.stage is WorkerStage.IDLE for worker in workers) and not forks_wanted(pool.occupancy, 0)
        return (rest and not strangers) or Pending((workers, strangers))
