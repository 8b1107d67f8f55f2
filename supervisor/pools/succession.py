"""A pool that takes another one's place, with the code as it is now: started beside it, its successor when it works.

Runs in: supervisor.

    Candidate ─► started, its first workers warm ─► take_over: the old pool is an elder, whose jobs run on
              └► its code does not load: closed, and the old pool has heard of nothing

Each is a pool of its own, with its own guard, zygote and workers. Together they have the slots of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from killable.supervisor.clock import Clock
from killable.supervisor.models import WorkerId
from killable.supervisor.pools.pool import Pool
from killable.supervisor.ports import SpawnerFactory
from killable.supervisor.records import RetiredWorker


class Succeeding(Protocol):
    """The fleet, as pools see it that are not in force yet, or no more."""

    def next_worker_id(self) -> WorkerId: ...
    def on_worker_retired(self, retired: RetiredWorker) -> None: ...
    def on_elder_changed(self, pool: Pool) -> None:
        """A pool that was replaced has a worker less that is busy."""
        ...

    def successor(self, pool: Pool) -> Pool: ...


class _Outside:
    """Owner of a pool that is not in force: nobody hears of it."""

    def __init__(self, fleet: Succeeding) -> None:
        self._fleet = fleet

    def on_types(self, pool: Pool, reported: Sequence[dict[str, Any]]) -> None:
        pass

    def on_worker_available(self, pool: Pool) -> None:
        pass

    def on_pool_ready(self, pool: Pool) -> None:
        pass

    def on_pool_broken(self, pool: Pool) -> None:
        pass

    def on_pool_changed(self) -> None:
        pass

    def on_early_output(self, data: bytes, stream: str) -> None:
        pass

    def queued(self, pool: Pool) -> int:
        return 0

    def next_worker_id(self) -> WorkerId:
        return self._fleet.next_worker_id()

    def on_worker_retired(self, retired: RetiredWorker) -> None:
        self._fleet.on_worker_retired(retired)

    def successor(self, pool: Pool) -> Pool:
        return self._fleet.successor(pool)


class Elder(_Outside):
    """Owner of a pool that was replaced, until its last job is over."""

    def on_worker_available(self, pool: Pool) -> None:
        self._fleet.on_elder_changed(pool)


class Candidate(_Outside):
    """Owner of a pool that is to take the place of `old`. It has as many warm workers then as that one has."""

    def __init__(self, old: Pool, clock: Clock, open_spawner: SpawnerFactory, fleet: Succeeding) -> None:
        super().__init__(fleet)
        self.old = old
        self.pool = Pool(old.spec, clock, open_spawner, self, old.generation + 1)
        self.types: Sequence[dict[str, Any]] | None = None
        """As its zygote has reported them; None: it has not yet."""
        self._decided = asyncio.Event()

    async def until_decided(self) -> None:
        """Start it, and wait until it could take over, or is broken."""
        self.pool.start()
        await self._decided.wait()

    @property
    def is_broken(self) -> bool:
        return self.pool.state == "broken" or self.pool.startup_error is not None

    def _wanted(self) -> int:
        """Return how many workers are warm first: one at least, for only it shows that workers start."""
        spec = self.old.spec
        return min(max(1, self.old.occupancy.idle, spec.spares), spec.workers + spec.spares) if spec.workers else 0

    def on_types(self, pool: Pool, reported: Sequence[dict[str, Any]]) -> None:
        self.types = reported
        self._decide()

    def on_worker_available(self, pool: Pool) -> None:
        self._decide()

    def on_pool_broken(self, pool: Pool) -> None:
        self._decided.set()

    def on_pool_changed(self) -> None:
        self._decide()

    def queued(self, pool: Pool) -> int:
        return max(0, self._wanted() - self.old.spec.spares)

    def _decide(self) -> None:
        pool = self.pool
        if self.types is None or pool.state != "ready":
            return
        if pool.occupancy.idle >= self._wanted():
            self._decided.set()
        else:
            pool.fill()  # the old one may have more than when this was asked last


async def all_decided(candidates: Iterable[Candidate]) -> None:
    """Return when each could take over, or one of them is broken that has a working predecessor."""
    waiting = {asyncio.ensure_future(each.until_decided()): each for each in candidates}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                candidate = waiting.pop(task)
                task.result()
                if candidate.is_broken and candidate.old.state != "broken":
                    return
    finally:
        for task in waiting:
            task.cancel()
