"""Tables of jobs, workers and job types that fit the terminal: columns are left out rather than wrapped.

Runs in: any machine. Returns renderables; prints nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from killable.api.cli.display import render
from killable.api.client.input_encoding import is_bytes

Record = Mapping[str, Any]
GAP = 2
CUT_CHARS_MIN = 8
"""A shortened column keeps at least so many characters."""


_SHOWN_KEYWORDS = frozenset({"type", "enum", "anyOf", "oneOf", "default", "title"})
"""Keywords of a member's schema that other columns show."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `drop`: the order in which columns are left out for lack of room, 1 first; 0: never. `cut`: may be
    shortened.
    """

    title: str
    drop: int = 0
    numeric: bool = False
    cut: bool = False


@dataclass(slots=True)
class Listing:
    """Rows under columns. Which columns are shown is decided when it is rendered, by the width."""

    columns: Sequence[Column]
    rows: list[Sequence[Text]] = field(default_factory=list)

    def add(self, *cells: str | Text) -> None:
        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, widths = fitting(self.columns, self._widths(), options.max_width)
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            header_style="bold",
            border_style="dim",
        )
        for index in shown:
            column = self.columns[index]
            table.add_column(
                column.title, justify="right" if column.numeric else "left", no_wrap=True, overflow="ellipsis",
                max_width=widths[index],
            )  # fmt: skip
        for row in self.rows:
            table.add_row(*(row[index] for index in shown))
        yield table

    def _widths(self) -> list[int]:
        cells = [[row[index].cell_len for row in self.rows] for index in range(len(self.columns))]
        return [max([len(column.title), *cells[index]]) for index, column in enumerate(self.columns)]


def fitting(columns: Sequence[Column], widths: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Return the indexes of the columns that are shown, and every column's width.

    Columns are shortened first, then left out in their order.
    """
    shown, cut = list(range(len(columns))), list(widths)

    def excess() -> int:
        return sum(cut[index] for index in shown) + GAP * (len(shown) - 1) - room

    def shorten() -> None:
        for index in reversed(shown):  # the columns on the left identify the row
            if columns[index].cut and excess() > 0:
                cut[index] = max(min(widths[index], CUT_CHARS_MIN), cut[index] - excess())

    shorten()
    for index in sorted((i for i in shown if columns[i].drop), key=lambda i: columns[i].drop):
        if excess() <= 0:
            break
        shown.remove(index)
        cut = list(widths)
        shorten()
    return shown, cut


def jobs(records: Sequence[Record], workers: Iterable[Record], *, full: bool) -> Listing:
    """Return JOB TYPE STATE AGE TOKENS WORKER PID CPU RSS; `full`: with whole ids."""
    listing = Listing(
        [
            Column("JOB"), Column("TYPE", cut=True), Column("STATE"), Column("AGE", 6, numeric=True),
            Column("TOKENS", 5, numeric=True), Column("WORKER", 1), Column("PID", 4, numeric=True),
            Column("CPU", 3, numeric=True), Column("RSS", 2, numeric=True),
        ]
    )  # fmt: skip
    holders = {worker["job_id"]: worker for worker in workers if worker.get("job_id")}
    for job in records:
        worker = holders.get(job["job_id"], {})
        name = job["job_id"] if full else render.short(job["job_id"])
        listing.add(
            name, render.plain(job["type"]), render.job_state(job), render.duration(_age_s(job)), str(job["tokens"]),
            str(worker.get("worker_id") or "-"), _pid(worker), render.share(worker.get("cpu")),
            render.size(worker.get("rss_bytes")),
        )  # fmt: skip
    return listing


def workers(records: Sequence[Record]) -> Listing:
    """Return WORKER POOL STATE JOB TYPE PID AGE JOBS CPU RSS USS."""
    listing = Listing(
        [
            Column("WORKER"), Column("POOL", 5, cut=True), Column("STATE"), Column("JOB"), Column("TYPE", 4, cut=True),
            Column("PID", numeric=True), Column("AGE", 6, numeric=True), Column("JOBS", 2, numeric=True),
            Column("CPU", 7, numeric=True), Column("RSS", 3, numeric=True), Column("USS", 1, numeric=True),
        ]
    )  # fmt: skip
    for worker in records:
        job_id = worker.get("job_id")
        listing.add(
            str(worker["worker_id"]), str(worker["pool"]), render.state(str(worker["state"])),
            render.short(job_id) if job_id else "-", render.plain(worker.get("type") or "-"), _pid(worker),
            render.duration(worker.get("age_s")), str(worker.get("jobs", "-")), render.share(worker.get("cpu")),
            render.size(worker.get("rss_bytes")), render.size(worker.get("uss_bytes")),
        )  # fmt: skip
    return listing


def retired(records: Sequence[Record]) -> Listing:
    """Return WORKER POOL JOB AGO WHY."""
    listing = Listing(
        [
            Column("WORKER"),
            Column("POOL", 1, cut=True),
            Column("JOB"),
            Column("AGO", 2, numeric=True),
            Column("WHY", cut=True),
        ]
    )
    for each in records:
        ago = render.duration(render.age_s(each["at"]))
        listing.add(
            str(each["worker_id"]), str(each["pool"]), render.short(each["job_id"]), ago, render.plain(each["why"])
        )
    return listing


NO_KEY = "*"


def tenants(records: Sequence[Record]) -> Listing:
    """Return TENANT QUEUED BYTES RUNNING KEPT BYTES STREAMS KEYS RATE PRIORITY; `3/10` is 3 of at most 10.

    A name that no API key has ends with NO_KEY.
    """
    listing = Listing(
        [
            Column("TENANT", cut=True), Column("QUEUED", numeric=True), Column("BYTES", 3, numeric=True),
            Column("RUNNING", numeric=True), Column("KEPT", numeric=True), Column("BYTES", 2, numeric=True),
            Column("STREAMS", 4, numeric=True), Column("KEYS", 1, numeric=True), Column("RATE", 6, numeric=True),
            Column("PRIORITY", 5, numeric=True),
        ]
    )  # fmt: skip
    for tenant in records:
        bounds = tenant["bounds"]
        rate, priority = bounds["submissions_per_s"], bounds["priority_max"]
        listing.add(
            f"{tenant['tenant']}{'' if tenant.get('has_key', True) else NO_KEY}",
            _of(tenant["queued"], bounds["queue_jobs_max"]),
            _size_of(tenant["queued_bytes"], bounds["queue_bytes_max"]),
            _of(tenant["running"], bounds["running_max"]), _of(tenant["kept"], bounds["keep_jobs"]),
            _size_of(tenant["kept_bytes"], bounds["keep_bytes"]), _of(tenant["streams"], bounds["streams_max"]),
            str(tenant["idempotency_keys"]), "-" if rate is None else f"{rate:g}/s",
            "-" if priority is None else f"≤ {priority}",
        )  # fmt: skip
    return listing


def job_types(records: Sequence[Record]) -> Listing:
    """Return TYPE POOL INPUT DESCRIPTION; an unavailable type shows the reason in place of its description."""
    listing = Listing(
        [Column("TYPE"), Column("POOL", 1, cut=True), Column("INPUT", cut=True), Column("DESCRIPTION", 2, cut=True)]
    )
    for record in records:
        what = Text(render.plain(record["description"]))
        if not record["available"]:
            what = Text(f"unavailable: {render.plain(record['unavailable_reason'])}", "yellow")
        listing.add(str(record["name"]), str(record["pool"]), render.signature(record["input_schema"]), what)
    return listing


def input_members(schema: Record) -> Listing:
    """Return MEMBER TYPE DEFAULT BOUNDS of an input's schema."""
    listing = Listing(
        [Column("MEMBER"), Column("TYPE", cut=True), Column("DEFAULT", 1, cut=True), Column("BOUNDS", 2, cut=True)]
    )
    required = set(schema.get("required", ()))
    for name, member in schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(member["default"]) if "default" in member else "-"
        hidden = member.keys() if is_bytes(member) else _SHOWN_KEYWORDS
        bounds = {word: value for word, value in member.items() if word not in hidden}
        listing.add(
            name,
            render.kind(member) or "any",
            default,
            "  ".join(f"{w} {json.dumps(v)}" for w, v in bounds.items()) or "-",
        )
    return listing


def _age_s(job: Record) -> float | None:
    """Return the seconds since the job was accepted, also of an ended one."""
    return render.age_s(job["created_at"])


def _of(number: int, bound: int | None) -> str:
    return f"{number}" if bound is None else f"{number}/{bound}"


def _size_of(number: int, bound: int | None) -> str:
    return render.size(number) + ("" if bound is None else f"/{render.size(bound)}")


def _pid(worker: Record) -> str:
    return str(worker.get("pid") or "-")
