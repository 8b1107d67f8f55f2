"""Jobs as they change: a table that is drawn again each second, or where no terminal is, a line for each change.

Runs in: any machine.

    a terminal: the table in place; it stays on the screen at the end      a pipe: one line per change, as text or JSON
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from killable.api.cli.display.console import has_reader, print_json, print_lines, stderr_console, stdout_console
from killable.api.cli.display.job_listing import ORDER, listing, ran_s, summary
from killable.api.cli.display.job_state import job_state, state_text
from killable.api.cli.top.board import Board, Members
from killable.api.cli.top.feed import Feed
from killable.api.explanation import spelling
from killable.api.explanation.state_words import ended_by
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.client.async_client import AsyncClient
    from killable.api.client.job_pages import JobFilters

EVERY_S = 1.0
"""Seconds between two pictures: people read no faster. And between two looks whether somebody still reads."""
AROUND_ROWS = 5
"""Lines of the screen that are no row of the table: its head, the summary, what is left out, the prompt."""


class JobListWatch:
    """Shows jobs until it is interrupted. A server that goes away is waited for: its jobs may be there again."""

    def __init__(
        self, client: AsyncClient, wanted: JobFilters, pools: Mapping[str, str], *, at_most: int, full: bool
    ) -> None:
        """`at_most` rows are shown; 0: as many as fit."""
        self._client = client
        self._wanted = wanted
        self._pools = pools
        self._at_most = at_most
        self._full = full
        self._board = Board()
        self._changed = asyncio.Event()
        self._feed = Feed(client, self._board, self._changed.set, wanted)
        self._told: dict[str, Members] = {}
        """What was last printed of each job that is listed, where lines are printed."""
        self._workers_due: dict[str, tuple[int, Members]] = {}
        """By job: the event of the workers that has its worker, and the job."""

    async def run(self, as_json: bool) -> None:
        """Show them until an interrupt, which is raised, or (BrokenPipeError) until nobody reads.

        Raise Refused for what will not pass: a key that is refused.
        """
        reading = asyncio.create_task(self._feed.run())
        try:
            await (self._draw() if not as_json and sys.stdout.isatty() else self._print(as_json))
        finally:
            reading.cancel()
            await asyncio.wait([reading])  # the loop's end would cancel connections of anyio that have not begun

    async def _next(self) -> None:
        """Wait for a change. Raise what will not pass, BrokenPipeError."""
        while not self._changed.is_set():
            # Not wait_for: in Python 3.11 it drops an interrupt that comes together with a change.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._changed.wait()
            if not has_reader(sys.stdout):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._changed.clear()
        if self._feed.trouble is not None:
            raise self._feed.trouble

    async def _print(self, as_json: bool) -> None:
        waited_for = ""
        while True:
            await self._next()
            if self._feed.waits_for != waited_for:
                waited_for = self._feed.waits_for
                said, style = (f"{waited_for}; trying again", "yellow") if waited_for else ("watching again", "green")
                stderr_console().print(said, style=style)
            for job in await self._news(as_json):
                print_json(job, one_line=True) if as_json else print_lines([line_of(job, full=self._full)])
            sys.stdout.flush()

    async def _draw(self) -> None:
        await self._next()
        with Live(self._screen(), console=stdout_console(), auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                await asyncio.sleep(EVERY_S)
                await self._next()  # there is one each second, of the workers or of the connection
                live.update(self._screen(), refresh=True)

    def _screen(self) -> RenderableType:
        jobs = self._board.listed("all", "", "state", backwards=False)
        room = max(1, stdout_console().height - AROUND_ROWS)
        shown = jobs[: min(self._at_most or room, room)]
        head = summary(jobs) if jobs else f"no {self._wanted.get('state') or ''} jobs".replace("  ", " ")
        lately = (self._board.now.get("jobs") or {}).get("ended_last_minute")
        head += "" if lately is None else f"; {lately} ended in the last minute"
        said, style = f"(Ctrl-C ends)  {head}", "dim"  # a narrow terminal cuts what comes last
        if self._feed.waits_for:
            said, style = f"{self._feed.waits_for}; this is how it was", "yellow"
        parts: list[RenderableType] = [_line(f"{datetime.now():%H:%M:%S}  {said}", style)]
        if self._board.degraded:
            parts.append(_line(f"degraded: {'; '.join(map(spelling.plain, self._board.degraded))}", "yellow"))
        if shown:
            parts.append(listing(shown, self._board.workers, full=self._full, pools=self._pools))
        if len(shown) < len(jobs):
            parts.append(Text(f"… and {len(jobs) - len(shown)} more", "dim"))
        return Group(*parts)

    async def _news(self, as_json: bool) -> list[dict[str, Any]]:
        """Return the jobs that are new or have changed, and those that are listed no more as they are now."""
        jobs = self._board.listed("all", "", "state", backwards=False)
        listed = {str(job["job_id"]): job for job in (jobs[: self._at_most] if self._at_most else jobs)}
        news = []
        for name, job in listed.items():
            if _told_of(job) != _told_of(self._told.get(name)) and not (as_json and self._awaits_worker(name, job)):
                self._told[name] = {**job, "worker": self._board.holders.get(name)}
                news.append(dict(self._told[name]))
        for name in self._workers_due.keys() - listed.keys():  # over before its worker was told
            _, job = self._workers_due.pop(name)
            self._told.setdefault(name, job)
        for name in list(self._told.keys() - listed.keys()) if self._board.has_all_jobs else ():
            before = self._told.pop(name)
            try:
                news.append({**_short(await self._client.job(name).record(), before), "worker": None})
            except KillableError:
                pass  # it is no longer kept
        return news

    def _awaits_worker(self, name: str, job: Members) -> bool:
        """Return whether the stream of workers has yet to tell of a job's worker: it does so once a second."""
        now = int(self._board.now.get("seq", -1))
        is_known = name in self._board.holders or not self._feed.reads_workers
        if job["state"] not in ("running", "stopping") or is_known:
            due = now
        else:
            due, _ = self._workers_due.setdefault(name, (now + 1, {**job, "worker": None}))
        if now >= due:
            self._workers_due.pop(name, None)
        return now < due


def _line(said: str, style: str) -> Text:
    return Text(said, style, no_wrap=True, overflow="ellipsis")


def line_of(job: Members, *, full: bool) -> Text:
    """Return `08:21:03  job-3f2a91c0  tick  running 45%  w-3`, or how it has ended."""
    name = str(job["job_id"]) if full else spelling.short(str(job["job_id"]))
    state = job_state(job) if job["state"] in ORDER else state_text(ended_by(job))
    parts = [datetime.now().strftime("%H:%M:%S"), name, spelling.plain(job["type"]), state]
    if job["state"] in ("running", "stopping") and job.get("worker_id"):
        parts.append(str(job["worker_id"]))
    if job.get("ended_at"):
        ran = ran_s(job)
        parts.append("never ran" if ran is None else f"ran {spelling.duration(ran)}")
    return Text("  ").join(part if isinstance(part, Text) else Text(str(part)) for part in parts)


def _told_of(job: Members | None) -> tuple[Any, ...] | None:
    """Return what makes another line: not its age, nor what its worker uses, which change all the time."""
    if job is None:
        return None
    return job["state"], job["attempt"], job.get("worker_id"), job.get("progress"), job.get("error")


def _short(record: Members, like: Members) -> dict[str, Any]:
    """Return a whole record with the members of a short one only."""
    error = record.get("error")
    members = {name: record.get(name) for name in like}
    return members | {"error": error and {name: error.get(name) for name in ("code", "message", "retryable")}}
