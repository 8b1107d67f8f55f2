"""Jobs as they change: a table that is drawn again each second, or where no terminal is, a line for each change.

Runs in: any machine.

    a terminal: the table in place; it stays on the screen at the end      a pipe: one line per change, as text or JSON
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from killable.api.cli.display.console import print_json, print_lines, stderr_console, stdout_console
from killable.api.cli.display.job_listing import ORDER, holders_of, listing, ran_s, summary
from killable.api.cli.display.job_state import job_state, state_text
from killable.api.client.errors import Unreachable
from killable.api.explanation import spelling
from killable.api.explanation.state_words import ended_by
from killable.workers.errors import KillableError, Refused
from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    from killable.api.client.client import Client

EVERY_S = 1.0
"""Seconds between two looks: people read no faster."""
AROUND_ROWS = 5
"""Lines of the screen that are no row of the table: its head, the summary, what is left out, the prompt."""

Members = Mapping[str, Any]


class JobsNow(NamedTuple):
    """The jobs in the order of the list, and the workers."""

    jobs: Sequence[Members]
    workers: Sequence[Members]


class JobListWatch:
    """Shows jobs until it is interrupted. A server that goes away is waited for: its jobs may be there again."""

    def __init__(
        self, client: Client, look: Callable[[], JobsNow], pools: Mapping[str, str], *, at_most: int, full: bool,
        wanted: str,
    ) -> None:  # fmt: skip
        """`look` asks the server. `at_most` rows are shown; 0: as many as fit. `wanted`: the state that is listed."""
        self._client = client
        self._look = look
        self._pools = pools
        self._at_most = at_most
        self._full = full
        self._wanted = wanted
        self._told: dict[str, Members] = {}
        """What was last printed of each job that is listed, where lines are printed."""
        self._is_away = False

    def run(self, as_json: bool) -> None:
        """Show them until an interrupt, which is raised. Raise Unreachable if no server answers at first."""
        seen: JobsNow | None = self._look()
        if not as_json and sys.stdout.isatty():
            self._draw(seen)
            return
        while True:
            if seen is not None:
                for job in self._changed(seen):
                    print_json(job, one_line=True) if as_json else print_lines([line_of(job, full=self._full)])
                sys.stdout.flush()
            time.sleep(EVERY_S)
            seen = self._look_again(tells=True)

    def _look_again(self, *, tells: bool) -> JobsNow | None:
        """Ask again; None: the server does not answer now. Raise what will not pass: a key that is refused."""
        try:
            seen = self._look()
        except Unreachable:
            if tells and not self._is_away:
                stderr_console().print("the server does not answer; waiting for it", style="yellow")
            self._is_away = True
            return None
        except Refused as refusal:
            if not refusal.retryable:
                raise
            return None
        if tells and self._is_away:
            stderr_console().print("the server is back", style="green")
        self._is_away = False
        return seen

    def _draw(self, seen: JobsNow | None) -> None:
        console = stdout_console()
        last = seen
        with Live(self._screen(last), console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                time.sleep(EVERY_S)
                last = self._look_again(tells=False) or last
                live.update(self._screen(last), refresh=True)

    def _screen(self, seen: JobsNow | None) -> RenderableType:
        jobs, workers = seen or JobsNow([], [])
        room = max(1, stdout_console().height - AROUND_ROWS)
        shown = jobs[: min(self._at_most or room, room)]
        head = summary(jobs) if jobs else f"no {self._wanted} jobs".replace("  ", " ")
        moment = datetime.now().strftime("%H:%M:%S")
        title = Text(f"{moment}  {head}  (Ctrl-C ends)", "dim", no_wrap=True, overflow="ellipsis")
        if self._is_away:
            title = Text(
                f"{moment}  the server does not answer; this is how it was", "yellow", no_wrap=True, overflow="ellipsis"
            )
        parts: list[RenderableType] = [title]
        if shown:
            parts.append(listing(shown, workers, full=self._full, pools=self._pools))
        if len(shown) < len(jobs):
            parts.append(Text(f"… and {len(jobs) - len(shown)} more", "dim"))
        return Group(*parts)

    def _changed(self, seen: JobsNow) -> list[dict[str, Any]]:
        """Return the jobs that are new or have changed, and those that are listed no more as they are now."""
        held = holders_of(seen.jobs, seen.workers)
        jobs = seen.jobs[: self._at_most] if self._at_most else seen.jobs
        now = {str(job["job_id"]): {**job, "worker": held.get(job["job_id"])} for job in jobs}
        changed = [job for name, job in now.items() if _told_of(job) != _told_of(self._told.get(name))]
        for name in self._told.keys() - now.keys():
            try:
                changed.append({**_short(self._client.job(name).record(), self._told[name]), "worker": None})
            except KillableError:
                pass  # it is no longer kept
        self._told = {**now}
        return changed


def line_of(job: Members, *, full: bool) -> Text:
    """Return `08:21:03  job-3f2a91c0  tick  running 45%  w-3`, or how it has ended."""
    name = str(job["job_id"]) if full else spelling.short(str(job["job_id"]))
    state = job_state(job) if job["state"] in ORDER else state_text(ended_by(job))
    parts = [datetime.now().strftime("%H:%M:%S"), name, spelling.plain(job["type"]), state]
    worker = job.get("worker")
    if worker:
        parts.append(str(worker["worker_id"]))
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
