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

    def __init__(self, client: AsyncClient, board: Board, changed: Callable[[], None]) -> None:
        """`changed` is called after each change of the board or of the connection."""
        self._client = client
        self._board = board
        self._changed = changed
        self._away_since: float | None = None
        self._restarted_at: float | None = None
        self._trouble = ""
        """Why the server gives nothing, where that will not pass by itself."""

    @property
    def standing(self) -> Text:
        """How the connection is, for the head."""
        now = time.monotonic()
        if self._trouble:
            return Text(spelling.plain(self._trouble), "bold red")
        if self._away_since is not None:
            return Text(f"no answer for {spelling.duration(now - self._away_since)}; trying again", "bold yellow")
        if self._restarted_at is not None and now - self._restarted_at < RESTART_TOLD_S:
            ago = spelling.duration(now - self._restarted_at)
            return Text(f"live; the server was started anew {ago} ago", "yellow")
        return Text("live", "green") if self._board.now else Text("connecting", "dim")

    async def run(self) -> None:
        """Read both streams, side by side: one that breaks does not stop the other."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._again(self._read_workers))
            both.create_task(self._again(self._read_jobs))
            both.create_task(self._ask_what_is_wrong())

    async def _again(self, read: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await read()
                self._is_away()  # the stream was closed: the server ends
            except Unreachable:
                self._is_away()
            except Refused as refusal:
                if refusal.retryable:
                    self._is_away()
                else:
                    self._trouble = f"{refusal.code}: {refusal.message}"
            except KillableError as error:
                self._trouble = str(error)
            except (LookupError, TypeError, ValueError) as error:  # of a server of another version
                self._trouble = f"an answer is not one of this version: {type(error).__name__}: {error}"
            self._changed()
            await asyncio.sleep(AGAIN_S)

    def _is_away(self) -> None:
        self._away_since = self._away_since or time.monotonic()

    def _is_here(self) -> None:
        self._away_since, self._trouble = None, ""

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
                self._is_here()
                self._changed()

    async def _read_jobs(self) -> None:
        rest: asyncio.Task[None] | None = None
        try:
            async with aclosing(self._client.watch_jobs(limit=FIRST_JOBS)) as stream:
                async for event in stream:
                    self._board.take(event.name, event.data)
                    if event.name == "jobs":
                        if rest is not None:
                            rest.cancel()
                        if event.data["total"] > len(event.data["jobs"]):
                            rest = asyncio.create_task(self._read_rest())
                    self._is_here()
                    self._changed()
        finally:
            if rest is not None:
                rest.cancel()

    async def _read_rest(self) -> None:
        """Read the jobs that the first event had no room for: what runs is often older than what waits."""
        try:
            async for job in self._client.jobs():
                self._board.add(job)
        except KillableError:
            return  # the stream tells it
        self._changed()
