"""Supervisors of several tests, each of which leaves them as if it had not been there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from support.engines import new_supervisor, until_warm, with_workers
from support.processes import ProcessInfo, descendants, permanent_pids, shared_servers
from support.waiting import Pending, until_async

from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor


class SharedSupervisor:
    """What there is of it between two tests, on each of its machines: a guard, a zygote, and as many idle workers as
    the pool has spares.
    """

    def __init__(self, settings: Settings) -> None:
        self.supervisor = new_supervisor(settings)
        self._unhandled: list[dict[str, Any]] = []

    async def start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: self._unhandled.append(context))
        before = {seen.pid for seen in descendants(os.getpid())}
        await self.supervisor.start()
        await until_warm(self.supervisor)
        self._guards = {
            seen.pid for seen in descendants(os.getpid()) if seen.parent == os.getpid() and seen.pid not in before
        }
        pools = [pool for each in with_workers(self.supervisor) for pool in await each.pools()]
        self._zygotes = {pool.zygote_pid for pool in pools}
        assert len(self._guards) == len(self._zygotes), (self._guards, pools)
        permanent_pids.update(self._guards)
        shared_servers.update(self._guards)

    def _below_guards(self) -> list[ProcessInfo]:
        return [seen for guard in self._guards for seen in descendants(guard)]

    async def tidy(self) -> None:
        """End what a test has left to run; then its guards, zygotes and spares are there, and nothing else. An
        exception that ended in the event loop's handler is a failure: nobody else hears of it.
        """
        await self.supervisor.cancel_matching(grace_s=0)

        async def rests() -> bool | Pending:
            workers = await self.supervisor.workers()
            known = self._zygotes | {worker.pid for worker in workers}
            strangers = [seen for seen in self._below_guards() if seen.pid not in known]
            (spec,) = self.supervisor.settings.pools
            idle = [worker.state for worker in workers] == ["idle"] * spec.spares * len(self._zygotes)
            return (idle and not strangers) or Pending((workers, strangers))

        await until_async(rests, "only the guards, the zygotes and the spares are there")
        unhandled, self._unhandled = self._unhandled, []
        assert not unhandled, unhandled

    async def close(self) -> None:
        await self.supervisor.close(grace_s=0)
        permanent_pids.difference_update(self._guards)
        shared_servers.difference_update(self._guards)
        assert not self._unhandled, self._unhandled


class SharedSupervisors:
    """Those of one pool: one for each proof that a test asks for, each started by the first of these tests."""

    def __init__(self, pool: PoolSpec) -> None:
        self._pool = pool
        self._started: dict[str, SharedSupervisor] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        """What they have begun at their start, and is not over."""

    async def get(self, pools: Sequence[PoolSpec], settings: Mapping[str, Any]) -> Supervisor | None:
        """Return the one that has these pools and settings, if it is shared."""
        if pools != (self._pool,) or settings.keys() - {"proof"}:
            return None
        proof = settings.get("proof", "")
        if proof not in self._started:
            shared = SharedSupervisor(Settings(pools=(self._pool,), proof=proof))
            before = asyncio.all_tasks()
            await shared.start()
            self.tasks |= asyncio.all_tasks() - before
            self._started[proof] = shared
        return self._started[proof].supervisor

    async def tidy(self) -> None:
        for shared in self._started.values():
            await shared.tidy()

    async def close(self) -> None:
        for shared in reversed(self._started.values()):
            await shared.close()
