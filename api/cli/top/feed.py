"""Reads the two live streams of a server for a board, and goes on when the server goes away and comes back.

Runs in: any machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from rich.text import Text

from killable.api.cli.top.board import Board
from killable.api.client.errors import Unreachable
from killable.api.explanation import spelling
from killable.workers.errors import KillableError, Refused

if TYPE_CHECKING:
    from killable.api.client.async_client import AsyncClient
    from killable.api.client.job_pages import JobFilters

AGAIN_S = 1.0
"""Seconds until a connection that broke is tried again."""
FIRST_JOBS = 200
"""Jobs of the first event of their stream, the newest; the others come page by page."""
READINESS_EVERY_S = 5.0
"""Seconds between two questions for what is wrong with the server: no stream tells that."""
RESTART_TOLD_S = 30.0
"""Seconds for which the head says that the server was started anew."""


class Feed:
    """Keeps a board up to date until it is cancelled."""

    def __init__(
        self, client: AsyncClient, board: Board, changed: Callable[[], None], wanted: JobFilters | None = None
    ) -> None:
        """`changed` is called after each change of the board or of the connection. `wanted`: which jobs."""
        self._client = client
        self._board = board
        self._changed = changed
        self._wanted: JobFilters = wanted or {}
        self._away: dict[str, float] = {}
        """Since when which stream is broken."""
        self._restarted_at: float | None = None
        self._troubles: dict[str, KillableError] = {}
        """By stream."""
        self.has_all_jobs = False
        """Whether the board has all jobs that are kept, and not only the newest ones."""

    @property
    def trouble(self) -> KillableError | None:
        """Why the server gives nothing, where that will not pass by itself."""
        return next(iter(self._troubles.values()), None)

    @property
    def is_away(self) -> bool:
        """Whether the server does not answer."""
        return bool(self._away)

    @property
    def standing(self) -> Text:
        """How the connection is, for the head."""
        now = time.monotonic()
        if self.trouble is not None:
            code = f"{self.trouble.code}: {self.trouble.message}" if isinstance(self.trouble, Refused) else self.trouble
            return Text(spelling.plain(str(code)), "bold red")
        if self._away:
            since = min(self._away.values())
            return Text(f"no answer for {spelling.duration(now - since)}; trying again", "bold yellow")
        if self._restarted_at is not None and now - self._restarted_at < RESTART_TOLD_S:
            ago = spelling.duration(now - self._restarted_at)
            return Text(f"live; the server was started anew {ago} ago", "yellow")
        return Text("live", "green") if self._board.now else Text("connecting", "dim")

    async def run(self) -> None:
        """Read both streams, side by side: one that breaks does not stop the other."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._again("workers", self._read_workers))
            both.create_task(self._again("jobs", self._read_jobs))
            both.create_task(self._ask_what_is_wrong())

    async def _again(self, name: str, read: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            is_away = True  # also when the stream was closed: the server ends
            try:
                await read()
            except Unreachable:
                pass
            except Refused as refusal:
                is_away = refusal.retryable
                if not is_away:
                    self._troubles[name] = refusal
            except KillableError as error:
                is_away, self._troubles[name] = False, error
            except (LookupError, TypeError, ValueError) as error:  # of a server of another version
                of = f"{type(error).__name__}: {error}"
                is_away, self._troubles[name] = False, KillableError(f"an answer is not one of this version: {of}")
            if is_away:
                self._away.setdefault(name, time.monotonic())
            self._changed()
            await asyncio.sleep(AGAIN_S)

    def _is_here(self, name: str) -> None:
        self._away.pop(name, None)
        self._troubles.pop(name, None)

    async def _ask_what_is_wrong(self) -> None:
        while True:
            try:
                self._board.degraded = (await self._client.ready()).get("degraded") or ()
            except Refused as refusal:  # no job can start
                self._board.degraded = refusal.facts.get("degraded") or (refusal.message,)
            except KillableError:
                self._board.degraded = ()  # the streams tell that it does not answer
            self._changed()
            await asyncio.sleep(READINESS_EVERY_S)

    async def _read_workers(self) -> None:
        info = await self._client.info()
        before = self._board.info.get("instance_id")
        if before not in (None, info.get("instance_id")):
            self._board.forget_workers()
            self._restarted_at = time.monotonic()
        self._board.info = info
        up_s = 0.0
        async with aclosing(self._client.watch_workers()) as stream:
            async for now in stream:
                up_s, before_s = float(now["server"]["uptime_s"]), up_s
                if up_s < before_s:
                    return  # another run of the server, so soon that the stream was resumed
                self._board.take("now", now)
                self._is_here("workers")
                self._changed()

    async def _read_jobs(self) -> None:
        rest: asyncio.Task[None] | None = None
        try:
            async with aclosing(self._client.watch_jobs(limit=FIRST_JOBS, **self._wanted)) as stream:
                async for event in stream:
                    self._board.take(event.name, event.data)
                    if event.name == "jobs":
                        if rest is not None:
                            rest.cancel()
                        self.has_all_jobs = event.data["total"] <= len(event.data["jobs"])
                        rest = None if self.has_all_jobs else asyncio.create_task(self._read_rest())
                    self._is_here("jobs")
                    self._changed()
        finally:
            if rest is not None:
                rest.cancel()

    async def _read_rest(self) -> None:
        """Read the jobs that the first event had no room for: what runs is often older than what waits."""
        while not self.has_all_jobs:
            try:
                async for job in self._client.jobs(**self._wanted):
                    self._board.add(job)
                self.has_all_jobs = True
            except KillableError:
                await asyncio.sleep(AGAIN_S)
        self._changed()
