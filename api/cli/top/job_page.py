"""One job: its story, its certificate and phases, its stack, the end of its output; live while it has not ended.

Runs in: any machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from killable.api.cli.display.certificate import certificate_table
from killable.api.cli.display.console import visible
from killable.api.cli.display.job_state import job_state
from killable.api.cli.display.state_colours import colour_of
from killable.api.cli.top.board import ACTIVE
from killable.api.explanation import spelling, story
from killable.api.explanation.state_words import PHASES
from killable.workers.errors import KillableError

if TYPE_CHECKING:
    from killable.api.client.async_client import AsyncClient

EVERY_S = 1.0
LAST_EVENTS = 50
EVENTS_S = 2.0
"""How long the last events may take to come."""
BAR = 24

Members = Mapping[str, Any]


class JobPage(Screen[None]):
    """Esc goes back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,left,backspace", "leave", "back"),
        Binding("c", "app.cancel_job", "cancel"),
        Binding("K", "app.kill", "kill"),
        Binding("down,j", "down", show=False),
        Binding("up,k", "up", show=False),
        Binding("pagedown,space", "page_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("home,g", "top", show=False),
        Binding("end,G", "bottom", show=False),
    ]

    def __init__(self, client: AsyncClient, job: Members, *, may_end: bool) -> None:
        """`may_end`: whether the key may cancel jobs."""
        super().__init__()
        self._may_end = may_end
        self.job = job
        """As it is now; short at first, then its whole record."""
        self._client = client

    def compose(self) -> ComposeResult:
        yield Static(id="page-head", markup=False)
        with VerticalScroll(id="page"):
            yield Static("…", id="told", markup=False)
        yield Static(id="page-keys", markup=False)

    def on_mount(self) -> None:
        self._head("")
        self.run_worker(self._follow(), exclusive=True)

    async def _follow(self) -> None:
        handle = self._client.job(str(self.job["job_id"]))
        while True:
            try:
                record = await handle.record()
                events = await self._last_events(record)
            except KillableError as error:
                self._head(f"{error.code}: {error.message}")
            else:
                self.job = record
                self._head("")
                self.query_one("#told", Static).update(page_of(record, events, self.size.width - 2))
                if record["state"] not in ACTIVE:
                    return
            await asyncio.sleep(EVERY_S)

    async def _last_events(self, record: Members) -> list[Members]:
        """Return the last events that the job had when this record was made."""
        final = int(record["events"]) - 1
        found: list[Members] = []
        if final < 0:
            return found
        first = max(0, final + 1 - LAST_EVENTS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EVENTS_S):
                handle = self._client.job(str(record["job_id"]))
                async with aclosing(handle.events(after=first - 1)) as events:
                    async for event in events:
                        found.append({"event": event.name, "data": event.data})
                        if event.id >= final:
                            break
        return found

    def _head(self, trouble: str) -> None:
        job = self.job
        line = Text.assemble((str(job["job_id"]), "bold"), "  ", spelling.plain(job["type"]), "  ", job_state(job))
        if trouble:
            line.append(f"   {trouble}", "bold yellow")
        self.query_one("#page-head", Static).update(line)
        ends = "   c cancel   K kill" if self._may_end and job["state"] in ACTIVE else ""
        self.query_one("#page-keys", Static).update(Text(f"Esc back   ↑↓ scroll{ends}", "reverse"))

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_down(self) -> None:
        self.query_one("#page").scroll_down(animate=False)

    def action_up(self) -> None:
        self.query_one("#page").scroll_up(animate=False)

    def action_page_down(self) -> None:
        self.query_one("#page").scroll_page_down(animate=False)

    def action_page_up(self) -> None:
        self.query_one("#page").scroll_page_up(animate=False)

    def action_top(self) -> None:
        self.query_one("#page").scroll_home(animate=False)

    def action_bottom(self) -> None:
        self.query_one("#page").scroll_end(animate=False)


def page_of(record: Members, events: list[Members], width: int) -> RenderableType:
    """Return the whole page of a job."""
    told = story.tell(record, events)
    parts: list[RenderableType] = [
        Text(visible(told.headline), f"bold {colour_of(str(record['state']))}".rstrip()), Text()
    ]  # fmt: skip
    indent = " " * 8
    for paragraph in told.paragraphs:
        lines = textwrap.wrap(
            f"{paragraph.title:<8}{paragraph.text}", max(40, width), subsequent_indent=indent,
            break_long_words=True, break_on_hyphens=False,
        )  # fmt: skip
        first, *more = [visible(line) for line in lines] or [""]
        parts.append(Text.assemble((first[:8], "bold cyan"), first[8:]))
        parts += [Text(line) for line in more]
        quoted = "dim" if paragraph.title in ("Input", "Where", "Tokens", "Printed") else ""
        parts += [Text(visible(f"{indent}  {line}".rstrip()), quoted) for line in paragraph.lines]
        parts.append(Text())
    certificate = record.get("certificate") or {}
    if certificate:
        parts += [Text("Certificate", "bold cyan"), *timeline(certificate), Text()]
        shown = {name: value for name, value in certificate.items() if name not in ("stack", *PHASES)}
        parts.append(certificate_table(shown))
    return Group(*parts)


def timeline(certificate: Members) -> list[Text]:
    """Return the phases as bars that begin and end where they are in time."""
    times = [(name, float(certificate[name])) for name in PHASES if certificate.get(name) is not None]
    if not times:
        return []
    whole = max(value for _, value in times) or 1.0
    rows, before = [], 0.0
    for name, value in times:
        start, end = int(BAR * before / whole), max(1, round(BAR * value / whole))
        start = min(start, end - 1)
        bar = " " * start + "━" * (end - start)
        colour = {"kill_sent": "red", "tree_empty": "green"}.get(name, "blue")
        rows.append(Text.assemble(f"  {name:<14}", (f"{bar:<{BAR}}", colour), f"  {spelling.milliseconds(value)}"))
        before = value
    return rows
