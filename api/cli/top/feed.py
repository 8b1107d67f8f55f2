"""Reads the server for a board, and goes on when the server goes away and comes back.

Runs in: any machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.text import Text

from killable.api.cli.display import spelling
from killable.api.cli.top.board import Board
from killable.api.client.errors import Unreachable
from killable.workers.errors import KillableError, Refused

if TYPE_CHECKING:
    from killable.api.client.async_client import AsyncClient

EVERY_S = 1.0
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
        self._refused = ""

    @property
    def standing(self) -> Text:
        """How the connection is, for the head."""
        now = time.monotonic()
        if self._refused:
            return Text(self._refused, "bold red")
        if self._away_since is not None:
            return Text(f"no answer for {spelling.duration(now - self._away_since)}; trying again", "bold yellow")
        if self._restarted_at is not None and now - self._restarted_at < RESTART_TOLD_S:
            return Text(
                f"live; the server was started anew {spelling.duration(now - self._restarted_at)} ago", "yellow"
            )
        return Text("live", "green") if self._board.info else Text("connecting", "dim")

    async def run(self) -> None:
        while True:
            try:
                await self._look()
                self._away_since, self._refused = None, ""
            except Unreachable:
                if self._away_since is None:
                    self._away_since = time.monotonic()
            except Refused as refusal:
                self._refused = "" if refusal.retryable else f"{refusal.code}: {refusal.message}"
            except KillableError as error:
                self._refused = str(error)
            self._changed()
            await asyncio.sleep(EVERY_S)

    async def _look(self) -> None:
        info = await self._client.info()
        before = self._board.info.get("instance_id")
        if before not in (None, info.get("instance_id")):
            self._board.forget_jobs()
            self._restarted_at = time.monotonic()
        self._board.info = info
        workers = await self._client.workers_and_retired()
        jobs = [job async for job in self._client.jobs()]
        counts = Counter(str(job["state"]) for job in jobs)
        ended = Counter(
            str((job.get("error") or {}).get("code") or job["state"]) for job in jobs if job.get("ended_at")
        )
        self._board.take("now", {**workers, "jobs": {"ended": ended}, "queue": {"depth": counts["queued"]}})
        self._board.take("jobs", {"jobs": jobs, "total": len(jobs), "counts": counts})
