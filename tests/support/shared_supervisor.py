"""A supervisor of several tests, each of which leaves it as if it had not been there."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from support.engines import new_supervisor
from support.processes import ProcessInfo, descendants, permanent_pids, shared_servers
from support.waiting import Pending, until_async

from killable.supervisor.settings import PoolSpec, Settings


class SharedSupervisor:
    """What there is of it between two tests: a guard, a zygote, and as many idle workers as the pool has spares."""

    def __init__(self, pool: PoolSpec) -> None:
        self.pool = pool
        self.supervisor = new_supervisor(Settings(pools=(pool,)))
        self._unhandled: list[dict[str, Any]] = []

    async def start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self._unhandled.append(context))
        before = {seen.pid for seen in descendants(os.getpid())}
        await self.supervisor.start()
        await self.supervisor.until_warm()
        (self._guard,) = [
            seen.pid for seen in descendants(os.getpid()) if seen.parent == os.getpid() and seen.pid not in before
        ]
        workers = {worker.pid for worker in await self.supervisor.workers()}
        (self._zygote,) = [seen.pid for seen in descendants(self._guard) if seen.pid not in workers]
        permanent_pids.add(self._guard)
        shared_servers.add(self._guard)

    async def tidy(self) -> None:
        """End what a test has left to run; then its guard, its zygote and its spares are there, and nothing else. An
        exception that ended in the event loop's handler is a failure: nobody else hears of it.
        """
        await self.supervisor.cancel_matching(grace_s=0)

        async def rests() -> bool | Pending:
            workers = await self.supervisor.workers()
            known = {self._zygote} | {worker.pid for worker in workers}
            strangers: list[ProcessInfo] = [seen for seen in descendants(self._guard) if seen.pid not in known]
            idle = [worker.state for worker in workers] == ["idle"] * self.pool.spares
            return (idle and not strangers) or Pending((workers, strangers))

        await until_async(rests, "only the guard, the zygote and the spares are there")
        unhandled, self._unhandled = self._unhandled, []
        assert not unhandled, unhandled

    async def close(self) -> None:
        await self.supervisor.close(grace_s=0)
        permanent_pids.discard(self._guard)
        shared_servers.discard(self._guard)
        assert not self._unhandled, self._unhandled
