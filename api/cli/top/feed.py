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

from killable.api.cli.display.error_hints import hint_for
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
        self._away: dict[str, tuple[float, str]] = {}
        """Since when which stream is broken, and what the server says of it; empty: nothing."""
        self._restarted_at: float | None = None
        self._troubles: dict[str, KillableError] = {}
        """By stream; and of the list that the stream's first event begins."""

    @property
    def trouble(self) -> KillableError | None:
        """Why the server gives nothing, where that will not pass by itself."""
        return next(iter(self._troubles.values()), None)

    @property
    def waits_for(self) -> str:
        """What is wrong with the connection, and is waited for; empty: nothing."""
        if not self._away:
            return ""
        return next(filter(None, (said for _, said in self._away.values())), "the server does not answer")

    @property
    def reads_workers(self) -> bool:
        """Whether the stream of workers is there, or just begun."""
        return "workers" not in self._away

    @property
    def standing(self) -> Text:
        """How the connection is, for the head."""
        now = time.monotonic()
        if self.trouble is not None:
            said = _said(self.trouble) if isinstance(self.trouble, Refused) else spelling.plain(str(self.trouble))
            return Text(said, "bold red")
        if self._away:
            since, said = min(self._away.values())
            said = said or f"no answer for {spelling.duration(now - since)}"
            return Text(f"{said}; trying again", "bold yellow")
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
            try:
                await read()
                self._failed(name, None)  # the stream was closed: the server ends
            except (KillableError, LookupError, TypeError, ValueError) as error:
                self._failed(name, error)
            await asyncio.sleep(AGAIN_S)

    def _failed(self, name: str, error: Exception | None) -> bool:
        """Take note of what a stream or a list has met. Return whether it may pass by itself."""
        if isinstance(error, Unreachable) and isinstance(error.__cause__, Refused):
            error = error.__cause__  # a stream that could not be resumed
        if not isinstance(error, KillableError | None):  # of a server of another version
            error = KillableError(f"an answer is not one of this version: {type(error).__name__}: {error}")
        passes = error is None or error.retryable
        if error is not None and not passes:
            self._troubles[name] = error
        else:
            since, _ = self._away.get(name, (time.monotonic(), ""))
            self._away[name] = since, _said(error) if isinstance(error, Refused) else ""
        self._changed()
        return passes

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
                        self._is_here("rest")
                        rest = None if self._board.has_all_jobs else asyncio.create_task(self._read_rest())
                    self._is_here("jobs")
                    self._changed()
        finally:
            if rest is not None:
                rest.cancel()

    async def _read_rest(self) -> None:
        """Read the jobs that the first event had no room for: what runs is often older than what waits."""
        while not self._board.has_all_jobs:
            try:
                async for job in self._client.jobs(**self._wanted):
                    self._board.add(job)
                self._board.read_to_end(whole=True)
            except (KillableError, LookupError, TypeError, ValueError) as error:
                if not self._failed("rest", error):
                    self._board.read_to_end(whole=False)
                    return
                await asyncio.sleep(AGAIN_S)
        self._is_here("rest")
        self._changed()


def _said(refusal: Refused) -> str:
    """Return what is refused, and the way out, in a line."""
    hint = hint_for(refusal)
    return spelling.plain(f"{refusal.code}: {refusal.message}{hint and f' ({hint})'}")
