"""Rolls every pool over to the code as it is now, or none of them.

Runs in: supervisor.

    reload ─► candidates start ─► all warm ─► types checked ─► take over: new jobs run there, what runs goes on
                    └──────────────── one does not load ─────► dropped: everything stays as it was

A reload that is asked for meanwhile replaces the one that loads: it has newer code.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence

from killable.supervisor.clock import Clock
from killable.supervisor.dispatch.new_types import changes
from killable.supervisor.jobs.lifecycle import State
from killable.supervisor.jobs.registry import Registry
from killable.supervisor.models import JobType
from killable.supervisor.pools.fleet import Fleet, LoadFailed
from killable.supervisor.pools.start_failures import error_line
from killable.supervisor.records import PoolRecord, ReloadRecord
from killable.workers.errors import KillableError, Refused

CheckTypes = Callable[[Sequence[PoolRecord], Sequence[JobType]], None]
"""Raises KillableError if a server with these pools and types would not have started."""

logger = logging.getLogger("killable.pool")


class Reload:
    """One at a time."""

    def __init__(self, fleet: Fleet, registry: Registry, clock: Clock, check: CheckTypes) -> None:
        self._fleet = fleet
        self._registry = registry
        self._clock = clock
        self._check = check
        self._task: asyncio.Task[None] | None = None
        self.record = ReloadRecord("none")

    def begin(self) -> None:
        """Load the code as it is now. What is being loaded is dropped."""
        before = self._task
        if before is not None:
            before.cancel()
        self.record = ReloadRecord("loading", self._clock.wall())
        self._task = asyncio.ensure_future(self._load(before))

    async def until_over(self, at_most_s: float | None = None) -> ReloadRecord:
        """Return the record of the latest reload when it is over, or as it stands then."""
        due = None if at_most_s is None else self._clock.now() + at_most_s
        while (task := self._task) is not None and not task.done():
            left_s = None if due is None else due - self._clock.now()
            if left_s is not None and left_s <= 0:
                break
            await asyncio.wait({task}, timeout=left_s)
        return self.record

    async def close(self) -> None:
        """Drop what is being loaded."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _load(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        began, types = self._clock.now(), self._fleet.types()
        try:
            files = await self._fleet.changed_files(forget_compiled=True)
            self.record = self.record._replace(files=tuple(files))
            await self._fleet.load_candidates()
            self._check(self._fleet.candidate_records(), self._fleet.new_types())
        except LoadFailed as failed:
            error = f"pool {failed.name}: {error_line(failed.detail)}{_place_in(failed.detail)}"
            self._fail(began, error, failed.detail)
        except (KillableError, OSError) as refused:
            message = refused.message if isinstance(refused, KillableError) else str(refused)
            self._fail(began, message.partition("\n")[0], message)
        except BaseException:
            self._fleet.drop_candidates()
            raise
        else:
            self._take_over(began, types)

    def _take_over(self, began: float, before: Sequence[JobType]) -> None:
        new = changes(before, self._fleet.new_types())
        waiting = [job for job in self._registry.active() if job.state is State.QUEUED and job.type.name in new.gone]
        self._fleet.take_over()
        self.record = self.record._replace(
            state="done", took_s=self._clock.now() - began, pools=tuple(pool.spec.name for pool in self._fleet),
            came=new.came, gone=new.gone, changed=new.changed, jobs_failed=len(waiting),
        )  # fmt: skip
        named = {"files": [path.rpartition("/")[2] for path in self.record.files], **new._asdict()}
        told = {name: " ".join(names) for name, names in named.items() if names}
        told |= {"jobs_failed": str(len(waiting))} if waiting else {}
        logger.info("pools_reloaded", extra={"took_s": round(self.record.took_s or 0.0, 3), **told})

    def _fail(self, began: float, error: str, traceback: str) -> None:
        self._fleet.drop_candidates()
        took_s = self._clock.now() - began
        self.record = self.record._replace(state="failed", took_s=took_s, error=error, traceback=traceback)
        logger.error("reload_failed", extra={"detail": f"{error}; the code from before goes on"})


def not_on_nodes() -> Refused:
    """Return the refusal of a head, whose nodes have the code."""
    why = "jobs run on the nodes of a cluster, which load it when they start: restart the server, which restarts them"
    return Refused(f"the code was not loaded anew: {why}", code="reload_failed", error=why)


def failure_of(record: ReloadRecord) -> Refused:
    """Return the refusal of a reload that has failed."""
    return Refused(
        f"the code was not loaded anew, and the code from before goes on: {record.error}",
        code="reload_failed", error=record.error, traceback=record.traceback,
    )  # fmt: skip


def _place_in(traceback: str) -> str:
    """Return where the last frame of a traceback is; empty if it has none."""
    frames = re.findall(r'^ +File "(.+)", line (\d+)', traceback, re.MULTILINE)
    return f" ({frames[-1][0]}:{frames[-1][1]})" if frames else ""
