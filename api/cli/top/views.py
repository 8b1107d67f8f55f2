"""The tables of `killable top`: their columns, and the cells of each row.

Runs in: any machine. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from killable.api.cli.display.fitted_table import Column
from killable.api.cli.display.job_listing import ran_s, tags_of
from killable.api.cli.display.job_state import job_state, state_text
from killable.api.cli.display.state_colours import colour_of
from killable.api.cli.top.board import Board, cpu_percent, memory_bytes
from killable.api.explanation import spelling

Members = Mapping[str, Any]

JOBS = (
    Column("JOB"), Column("TYPE", cut=True), Column("STATE"), Column("CPU", 8, numeric=True),
    Column("MEMORY", 7, numeric=True), Column("RAN", 9, numeric=True), Column("AGE", 5, numeric=True),
    Column("TOKENS", 4, numeric=True), Column("ERROR", 10), Column("WORKER", 3),
    Column("TENANT", 2, cut=True), Column("TAGS", 1, cut=True),
)  # fmt: skip
WORKERS = (
    Column("WORKER"), Column("POOL", 5, cut=True), Column("STATE"), Column("CPU", numeric=True),
    Column("MEMORY", numeric=True), Column("JOB", 8), Column("TYPE", 6, cut=True), Column("AGE", 4, numeric=True),
    Column("JOBS", 3, numeric=True), Column("PROCS", 2, numeric=True), Column("THREADS", 1, numeric=True),
    Column("PID", 7, numeric=True),
)  # fmt: skip
POOLS = (
    Column("POOL"), Column("QUEUED", numeric=True), Column("WORKERS", numeric=True), Column("BUSY", numeric=True),
    Column("IDLE", numeric=True), Column("STARTING", 2, numeric=True), Column("EARLY", 4, numeric=True),
    Column("RESTARTS", 3, numeric=True), Column("RECOVERY", 1, numeric=True),
)  # fmt: skip
CODES = (Column("ENDED AS"), Column("JOBS", numeric=True), Column("SHARE", numeric=True), Column("", 1))
NODES = (
    Column("NODE"), Column("STATE"), Column("RUNNING", numeric=True), Column("SLOTS", numeric=True),
    Column("HEARD", 1, numeric=True),
)  # fmt: skip
BAR = 20
"""Characters of the longest bar."""


def job_cells(board: Board, job: Members) -> list[Text]:
    code = str((job.get("error") or {}).get("code") or "")
    return [
        Text(spelling.short(str(job["job_id"]))), Text(spelling.plain(job["type"])), job_state(job),
        _percent(board.cpu_percent(job)), Text(spelling.size(board.memory_bytes(job))),
        Text(spelling.duration(ran_s(job))), Text(spelling.duration(spelling.age_s(job["created_at"]))),
        Text(str(job["tokens"])), Text(spelling.plain(code or "-"), colour_of(str(job["state"])) if code else ""),
        Text(str(job.get("worker_id") or "-") if job["state"] in ("running", "stopping") else "-"),
        Text(spelling.plain(job.get("tenant") or "-")), Text(spelling.plain(tags_of(job) or "-")),
    ]  # fmt: skip


def worker_cells(board: Board, worker: Members) -> list[Text]:
    job_id = worker.get("job_id")
    return [
        Text(str(worker["worker_id"])), Text(str(worker["pool"])), state_text(str(worker["state"])),
        _percent(cpu_percent(worker)), Text(spelling.size(memory_bytes(worker))),
        Text(spelling.short(str(job_id)) if job_id else "-"), Text(spelling.plain(worker.get("type") or "-")),
        Text(spelling.duration(worker.get("age_s"))), Text(_count(worker.get("jobs"))),
        Text(_count(worker.get("processes"))), Text(_count(worker.get("threads"))), Text(spelling.pid(worker)),
    ]  # fmt: skip


def _ended_early(replaced: Mapping[str, int]) -> int:
    """Return how many workers have ended before they had the jobs that a worker gets: mostly that is one."""
    return sum(replaced.values()) - replaced.get("served", 0)


def pool_cells(board: Board, pool: Members) -> list[Text]:
    recovery = pool.get("recovery_ms")
    last = recovery.get("last") if isinstance(recovery, Mapping) else recovery
    return [
        Text(spelling.plain(pool["name"])), Text(_count(pool.get("queued"))), Text(_count(pool.get("workers"))),
        Text(_count(pool.get("busy")), colour_of("busy")), Text(_count(pool.get("idle")), colour_of("idle")),
        Text(_count(pool.get("starting"))), Text(str(_ended_early(pool.get("replaced", {})))),
        Text(_count(pool.get("restarts"))),
        Text("-" if last is None else spelling.milliseconds(float(last))),
    ]  # fmt: skip


def code_cells(board: Board, row: Members) -> list[Text]:
    share = row["jobs"] / row["of"] if row["of"] else 0.0
    bar = "━" * max(1, round(share * BAR))
    colour = colour_of(state_of(str(row["code"])))
    return [Text(str(row["code"]), colour), Text(str(row["jobs"])), Text(f"{share:.0%}"), Text(bar, colour)]


def node_cells(board: Board, node: Members) -> list[Text]:
    heard = node.get("heard_s")
    return [
        Text(spelling.plain(node["name"])), state_text(str(node["state"])), Text(_count(node.get("running"))),
        Text(_count(node.get("slots"))), Text("-" if heard is None else spelling.duration(heard)),
    ]  # fmt: skip


def code_rows(board: Board) -> list[Members]:
    """Return how jobs have ended since the start of the server, the most frequent end first."""
    ended = dict((board.now.get("jobs") or {}).get("ended") or {})
    total = sum(ended.values())
    return [
        {"code": code, "jobs": count, "of": total}
        for code, count in sorted(ended.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]


def state_of(code: str) -> str:
    """Return the state that jobs with this code end in."""
    from killable.workers.error_codes import CODES

    if code == "completed":
        return code
    found = CODES.get(code)
    return str(getattr(found, "state", None) or "failed") if found is not None else "failed"


def _percent(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:.0f}%", "bold" if value is not None and value >= 90 else "")


def _count(value: Any) -> str:
    return "-" if value is None else str(value)


def used(rows: Sequence[Members], name: str) -> bool:
    """Return whether any of them has this member."""
    return any(row.get(name) for row in rows)
