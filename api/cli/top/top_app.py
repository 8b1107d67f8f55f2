"""The application `killable top`: an overview, tables of jobs, workers, pools, ends and nodes, and what ends them.

Runs in: any machine, in a terminal.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from time import monotonic
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.actions import SkipAction
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from killable.api.cli.display.certificate import death_line
from killable.api.cli.display.exit_codes import CommandExit
from killable.api.cli.interrupts import terminations
from killable.api.cli.top import overview, views
from killable.api.cli.top.board import ACTIVE, ORDERS, SHOWS, Board
from killable.api.cli.top.feed import Feed
from killable.api.cli.top.grid import Grid
from killable.api.cli.top.job_page import JobPage
from killable.api.cli.top.questions import Help, Question
from killable.api.client.async_client import AsyncClient
from killable.api.explanation import spelling
from killable.api.explanation.state_words import ended_by
from killable.workers.errors import KillableError

TICK_S = 1.0
"""Ages and times on the screen go on by the second, also when the server says nothing."""
DRAW_S = 0.25
"""The least number of seconds between two drawings: jobs may change thousands of times a second."""
BOTH_FROM_LINES = 36
"""From this height workers and jobs are shown at once."""
WORKERS_LINES_MAX = 12
NOTE_S = 20.0

Members = Mapping[str, Any]
VIEWS = ("jobs", "workers", "pools", "ends", "nodes")


class TopApp(App[int]):
    """Reads the server until it is left; ends nothing without asking."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #head { height: 4; }
    #tabs { height: 1; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #keys, #note, #page-head, #page-keys { height: 1; }
    #note { display: none; }
    Grid { height: 1fr; display: none; }
    #tables { height: 1fr; }
    #page { height: 1fr; }
    #told { height: auto; }
    Question, Help { align: center middle; }
    #question, #help { width: auto; max-width: 78; height: auto; border: round; padding: 0 2; }
    #question Static, #help Static { width: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c,ctrl+q", "leave", "quit", priority=False),
        # With priority: what is typed after it, however fast, is of the filter, and no key of the table.
        Binding("slash", "filter", "filter", priority=True),
        Binding("s", "sort(1)", "sort"),
        Binding("S", "backwards", show=False),
        Binding("a", "shows", "active/all"),
        Binding("c", "cancel_job", "cancel"),
        Binding("K", "kill", "kill"),
        Binding("p", "pause", "pause"),
        Binding("tab", "next_view", show=False, priority=True),
        *(Binding(str(number), f"view('{name}')", show=False) for number, name in enumerate(VIEWS, 1)),
        Binding("question_mark,h,f1", "keys", "help"),
        Binding("escape", "no_filter", show=False),
        Binding("ctrl+z", "suspend_process", show=False),
    ]

    def __init__(self, client: AsyncClient, address: str) -> None:
        super().__init__(ansi_color=True)
        self._client = client
        self._address = address
        self.board = Board()
        self._feed = Feed(client, self.board, self._on_change)
        self._view = "jobs"
        self._shows = "active"
        self._order = "state"
        self._backwards = False
        self._words = ""
        self._is_paused = False
        self._is_stale = False
        """The board has changed since the screen was drawn."""
        self._drawn_at = 0.0
        self._said: dict[str, Text] = {}
        """What the lines say that are not part of a table."""
        self._note_since = 0.0
        self._ending: set[asyncio.Task[None]] = set()

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="tabs", markup=False)
        yield Input(id="filter", placeholder="words, or type:… state:… tag:… code:… tenant:… node:… worker:…")
        with Vertical(id="tables"):
            yield Grid(
                views.WORKERS, "worker_id", lambda row: views.worker_cells(self.board, row),
                empty="no workers: no pool is ready", id="workers",
            )  # fmt: skip
            yield Grid(
                views.JOBS, "job_id", lambda row: views.job_cells(self.board, row), empty="no jobs", id="jobs"
            )  # fmt: skip
            yield Grid(views.POOLS, "name", lambda row: views.pool_cells(self.board, row), empty="no pools", id="pools")
            yield Grid(
                views.CODES, "code", lambda row: views.code_cells(self.board, row), empty="no job has ended yet",
                id="ends",
            )  # fmt: skip
            yield Grid(
                views.NODES, "name", lambda row: views.node_cells(self.board, row),
                empty="this server has no nodes: it is one machine", id="nodes",
            )  # fmt: skip
        yield Static(id="note", markup=False)
        yield Static(id="keys", markup=False)

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, *terminations()):
            loop.add_signal_handler(number, self.exit, CommandExit.INTERRUPTED)
        self.action_view("jobs")
        self.run_worker(self._feed.run(), exclusive=False)
        self.set_interval(TICK_S / 2, self._tick)

    def on_resize(self, event: events.Resize) -> None:
        self._arrange()
        self._draw()

    # ── what is shown ──

    def _on_change(self) -> None:
        if not self._is_stale and self.is_running:
            self._is_stale = True
            self.set_timer(max(0.001, self._drawn_at + DRAW_S - monotonic()), self._draw)

    def _tick(self) -> None:
        if monotonic() - self._drawn_at > TICK_S * 0.9:
            self._draw()

    def _grid(self, name: str) -> Grid:
        return self.screen_stack[0].query_one(f"#{name}", Grid)

    def _static(self, name: str) -> Static:
        return self.screen_stack[0].query_one(f"#{name}", Static)

    def _arrange(self) -> None:
        """Show the table of this view; on a tall screen the workers stand above the jobs."""
        if not self.screen_stack:
            return
        both = self.size.height >= BOTH_FROM_LINES
        for name in VIEWS:
            self._grid(name).display = name == self._view or (both and name == "workers" and self._view == "jobs")
        beside = both and self._view == "jobs"
        self._grid("workers").styles.height = self._workers_lines() if beside else "1fr"

    def _workers_lines(self) -> int:
        return min(WORKERS_LINES_MAX, max(2, len(self.board.workers) + 2))

    def _draw(self) -> None:
        self._is_stale = False
        self._drawn_at = monotonic()
        if not self.screen_stack or not self.is_running:
            return
        head = Text("\n", no_wrap=True).join(overview.lines(self.board, self._address, self._feed.standing))
        head.no_wrap, head.overflow = True, "ellipsis"
        self._say("head", head)
        if not self._is_paused:
            self._fill()
        self._say("tabs", self._tabs())
        self._say("keys", self._keys())
        if self._note_since and asyncio.get_running_loop().time() - self._note_since > NOTE_S:
            self._note_since = 0.0
            self._static("note").display = False

    def _say(self, name: str, text: Text) -> None:
        """Put a text into its lines, whose number stays: a new layout would take longer than all else."""
        if self._said.get(name) != text:
            self._said[name] = text
            self._static(name).update(text, layout=False)

    def _fill(self) -> None:
        board = self.board
        both = self._grid("workers").display
        if self._view == "jobs":
            rows = board.listed(self._shows, self._words, self._order, backwards=self._backwards)
            hidden = set()
            titles = [column.title for column in views.JOBS]
            if not any(job.get("tenant") not in (None, "default") for job in rows):
                hidden.add(titles.index("TENANT"))
            if not views.used(rows, "tags"):
                hidden.add(titles.index("TAGS"))
            if not views.used(rows, "error"):
                hidden.add(titles.index("ERROR"))
            if rows and not any(job["job_id"] in board.holders for job in rows):
                hidden |= {titles.index(title) for title in ("CPU", "MEMORY", "WORKER")}
            kind = "" if self._shows == "all" else f"{self._shows} "
            what = f"no {kind}job fits the filter (Esc removes it)" if self._words else f"no {kind}jobs"
            self._grid("jobs").rows_are(rows, hidden=frozenset(hidden), empty=what)
        if both or self._view == "workers":
            self._grid("workers").rows_are(board.workers)
            if self._view == "jobs":
                self._grid("workers").styles.height = self._workers_lines()
        if self._view == "pools":
            self._grid("pools").rows_are(list(board.now.get("pools") or ()))
        elif self._view == "ends":
            self._grid("ends").rows_are(views.code_rows(board))
        elif self._view == "nodes":
            self._grid("nodes").rows_are(list(board.now.get("nodes") or ()))

    def _tabs(self) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        for number, name in enumerate(VIEWS, 1):
            if name == "nodes" and not self.board.now.get("nodes"):
                continue
            line.append(f" {number} {name} ", "reverse bold" if name == self._view else "").append(" ")
        line.append(f" {self._grid(self._view).place}")
        if self._view == "jobs":
            line.append(f"  {self._shows}, by {self._order}{' backwards' if self._backwards else ''}")
            if self._words:
                line.append("  filter: ").append(self._words, "bold")
        if self._is_paused:
            line.append("  PAUSED", "bold yellow")
        return line

    def _keys(self) -> Text:
        what = {
            "jobs": ["Enter inspect", "/ filter", "s sort", "a active/all"],
            "workers": ["Enter inspect its job"],
        }.get(self._view, [])
        if self._view == "jobs" and self.board.may_end_jobs:
            what += ["c cancel", "K kill"]
        elif self._view == "workers" and self.board.may_kill_workers:
            what += ["K kill"]
        return Text("  ".join([*what, "p pause", "? help", "q quit"]), "reverse", no_wrap=True, overflow="ellipsis")

    def note(self, text: Text) -> None:
        """Say something above the keys, for a while."""
        note = self._static("note")
        text.no_wrap, text.overflow = True, "ellipsis"
        note.update(text)
        note.display = True
        self._note_since = asyncio.get_running_loop().time()

    # ── keys ──

    def action_leave(self) -> None:
        self.exit(CommandExit.OK)

    def action_view(self, name: str) -> None:
        self._turn_to(name)
        self._grid(name).focus()

    def _turn_to(self, name: str) -> None:
        self._view = name
        self._arrange()
        self._draw()

    def action_next_view(self) -> None:
        if len(self.screen_stack) > 1:
            return
        there = [name for name in VIEWS if name != "nodes" or self.board.now.get("nodes")]
        self.action_view(there[(there.index(self._view) + 1) % len(there)])

    def action_sort(self, by: int) -> None:
        names = list(ORDERS)
        self._order = names[(names.index(self._order) + by) % len(names)]
        self._draw()

    def action_backwards(self) -> None:
        self._backwards = not self._backwards
        self._draw()

    def action_shows(self) -> None:
        self._shows = SHOWS[(SHOWS.index(self._shows) + 1) % len(SHOWS)]
        self._grid("jobs").fit_again()
        self._draw()

    def action_pause(self) -> None:
        self._is_paused = not self._is_paused
        self._draw()

    def action_keys(self) -> None:
        self.push_screen(Help(may_end=self.board.may_end_jobs))

    def action_filter(self) -> None:
        field = self.screen_stack[0].query_one("#filter", Input)
        if len(self.screen_stack) > 1 or field.has_focus:
            raise SkipAction
        self._turn_to("jobs")  # without a focus, which Textual gives late: the next keys are the filter's
        field.value = self._words
        field.display = True
        self.screen.set_focus(field)

    def action_no_filter(self) -> None:
        field = self.screen_stack[0].query_one("#filter", Input)
        field.display = False
        self._words = field.value = ""
        self._grid(self._view).focus()
        self._draw()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.input.display = False
        self._grid("jobs").focus()

    # ── jobs and workers ──

    def on_grid_chosen(self, message: Grid.Chosen) -> None:
        row = message.grid.chosen
        if row is None:
            return
        job_id = row.get("job_id")
        if job_id:
            job = self.board.jobs.get(str(job_id), row)
            self.push_screen(JobPage(self._client, {"state": "running", **job}, may_end=self.board.may_end_jobs))
        elif message.grid.id == "ends":
            self._words, self._shows = f"code:{row['code']}", "ended"
            if row["code"] == "completed":
                self._words = "state:completed"
            self.action_view("jobs")

    def _job(self) -> Members | None:
        """Return the job that a key is about: that of the page, or that of the row."""
        if isinstance(self.screen, JobPage):
            return self.screen.job
        return self._grid("jobs").chosen if self._view == "jobs" else None

    def action_cancel_job(self) -> None:
        self._end_job(at_once=False)

    def action_kill(self) -> None:
        if self._view == "workers" and not isinstance(self.screen, JobPage):
            self._kill_worker()
        else:
            self._end_job(at_once=True)

    def _end_job(self, *, at_once: bool) -> None:
        job = self._job()
        if job is None:
            return
        name = spelling.short(str(job["job_id"]))
        if not self.board.may_end_jobs:
            self.note(Text("this key may only look (role read)", "yellow"))
            return
        if job["state"] not in ACTIVE:
            self.note(Text(f"{name} has ended: {ended_by(job)}"))
            return
        how = "SIGKILL at once, without grace." if at_once else "SIGTERM, then its grace, then SIGKILL."
        lines = [
            f"type {spelling.plain(job['type'])}, {job['state']}",
            how,
            "All processes that it started end with it.",
        ]

        def answered(yes: bool | None) -> None:
            if yes:
                self._start(self._cancel(str(job["job_id"]), 0.0 if at_once else None))

        self.push_screen(Question(f"{'Kill' if at_once else 'Cancel'} {name}?", lines), answered)

    def _kill_worker(self) -> None:
        worker = self._grid("workers").chosen
        if worker is None:
            return
        name = str(worker["worker_id"])
        if not self.board.may_kill_workers:
            self.note(Text("only a key of an operator that sees all jobs may kill workers", "yellow"))
            return
        held = worker.get("job_id")
        lines = [
            f"pool {spelling.plain(worker['pool'])}, {worker['state']}",
            f"Its job {spelling.short(str(held))} is cancelled." if held else "It has no job.",
            "Another worker takes its place.",
        ]

        def answered(yes: bool | None) -> None:
            if yes:
                self._start(self._kill(name))

        self.push_screen(Question(f"Kill worker {name}?", lines), answered)

    def _start(self, ending: Any) -> None:
        task = asyncio.get_running_loop().create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _cancel(self, job_id: str, grace_s: float | None) -> None:
        name = spelling.short(job_id)
        self.note(Text(f"{name}: asked to end"))
        try:
            ending = await self._client.job(job_id).cancel(grace_s=grace_s, reason="killable top")
        except KillableError as error:
            self.note(Text(f"{name}: {error.code}: {error.message}", "bold red"))
            return
        if ending.had_ended:
            self.note(Text(f"{name} had ended before: {ending.state}"))
        else:
            self.note(Text(f"{name} {ending.state}: {death_line(ending.certificate)}", "green"))

    async def _kill(self, name: str) -> None:
        self.note(Text(f"{name}: asked to end"))
        try:
            record = await self._client.kill_worker(name, reason="killable top")
        except KillableError as error:
            self.note(Text(f"{name}: {error.code}: {error.message}", "bold red"))
            return
        self.note(Text(f"{name} is {record.get('state')}", "green"))
