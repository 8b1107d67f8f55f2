"""A list of jobs with their worker processes, as columns: as many as the terminal has room for.

Runs in: any machine. Returns renderables; prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.display.job_state import job_state
from killable.api.cli.display.state_colours import colour_of
from killable.api.explanation import spelling

ORDER = ("stopping", "running", "queued")
"""The order of the list; ended jobs follow, newest first."""
DEFAULT_TENANT = "default"
"""Whose jobs all are where there are no keys."""

Members = Mapping[str, Any]


def in_order(jobs: Sequence[Members]) -> list[Members]:
    """Return stopping, then running jobs, then the queue in its order, then ended jobs in the given order."""

    def rank(job: Members) -> tuple[int, int]:
        state = job["state"]
        position = (job.get("queue") or {}).get("position")
        place = position if state == "queued" and position is not None else 0
        return (ORDER.index(state) if state in ORDER else len(ORDER), place)

    return sorted(jobs, key=rank)


def summary(jobs: Sequence[Members]) -> str:
    """Return `2 running, 498 queued`, in the order of the list."""
    counts = Counter(str(job["state"]) for job in jobs)
    states = [*ORDER, *sorted(counts.keys() - set(ORDER))]
    named = ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in states if counts[state])
    return f"{spelling.counted(len(jobs), 'job')}: {named}"


def holders_of(jobs: Iterable[Members], workers: Iterable[Members]) -> dict[str, Members]:
    """Return the worker of each job that has one, by the job's id.

    The two lists are answers to two requests. What a worker says counts only while the job's own record says the same:
    a job that was queued in the first list has no worker, whatever it has got meanwhile.
    """
    by_name = {str(worker.get("worker_id")): worker for worker in workers if worker.get("job_id")}
    held = {}
    for job in jobs:
        worker = by_name.get(str(job.get("worker_id")))
        if worker and worker["job_id"] == job["job_id"] and not job.get("ended_at") and job["state"] != "queued":
            held[str(job["job_id"])] = worker
    return held


def listing(
    records: Sequence[Members], workers: Iterable[Members], *, full: bool, pools: Mapping[str, str] | None = None
) -> Listing:
    """Return JOB TYPE STATE ERROR AGE RAN TOKENS TENANT POOL NODE WORKER PID CPU RSS TAGS, without those that say
    nothing of any of these jobs.

    `full`: with whole ids. `pools`: the pool of each job type, for the jobs that have no worker. In a cluster the id of
    a worker is said without its node.
    """
    held = holders_of(records, workers)
    has_error = any(_code(job) for job in records)
    has_tenant = any(_tenant(job) for job in records)
    on_nodes = any(job.get("node") for job in records)
    has_tags = any(job.get("tags") for job in records)
    pool_of = {job["job_id"]: _pool(job, held, pools or {}) for job in records}
    has_pool = any(pool_of.values())
    table = Listing(
        [
            Column("JOB"), Column("TYPE", cut=True), Column("STATE"), *([Column("ERROR", 11)] if has_error else []),
            Column("AGE", 12, numeric=True), Column("RAN", 3, numeric=True), Column("TOKENS", 10, numeric=True),
            *([Column("TENANT", 5, cut=True)] if has_tenant else []),
            *([Column("POOL", 2, cut=True)] if has_pool else []),
            *([Column("NODE", cut=True)] if on_nodes else []), Column("WORKER", 4),
            Column("PID", 9, numeric=True), Column("CPU", 8, numeric=True), Column("RSS", 7, numeric=True),
            *([Column("TAGS", 1, cut=True)] if has_tags else []),
        ]
    )  # fmt: skip
    for job in records:
        worker = held.get(job["job_id"], {})
        code = _code(job)
        table.add(
            job["job_id"] if full else spelling.short(job["job_id"]), spelling.plain(job["type"]), job_state(job),
            *([Text(spelling.plain(code or "-"), colour_of(str(job["state"])) if code else "")] if has_error else []),
            spelling.duration(spelling.age_s(job["created_at"])), spelling.duration(ran_s(job)), str(job["tokens"]),
            *([spelling.plain(_tenant(job) or "-")] if has_tenant else []),
            *([spelling.plain(pool_of[job["job_id"]] or "-")] if has_pool else []),
            *([spelling.plain(job["node"] or "-")] if on_nodes else []), _name_on_node(worker), spelling.pid(worker),
            spelling.share(worker.get("cpu")), spelling.size(worker.get("rss_bytes")),
            *([spelling.plain(tags_of(job) or "-")] if has_tags else []),
        )  # fmt: skip
    return table


def ran_s(job: Members, now: datetime | None = None) -> float | None:
    """Return how long the function of the latest attempt has run; None: it was not entered."""
    if not job.get("started_at"):
        return None
    ended = job.get("ended_at")
    return spelling.age_s(job["started_at"], datetime.fromisoformat(ended) if ended else now or datetime.now(UTC))


def tags_of(job: Members) -> str:
    """Return `team=search user=ada`."""
    return " ".join(f"{key}={value}" for key, value in (job.get("tags") or {}).items())


def _code(job: Members) -> str:
    """Return the code of an error that says more than the state."""
    code = str((job.get("error") or {}).get("code") or "")
    return "" if code == job["state"] else code


def _tenant(job: Members) -> str:
    """Return whose job it is; empty where everybody is the same, and of older servers."""
    tenant = str(job.get("tenant") or DEFAULT_TENANT)
    return "" if tenant == DEFAULT_TENANT else tenant


def _pool(job: Members, held: Mapping[str, Members], pools: Mapping[str, str]) -> str:
    worker = held.get(job["job_id"])
    return str(worker["pool"]) if worker and worker.get("pool") else pools.get(str(job["type"]), "")


def _name_on_node(worker: Members) -> str:
    """Return the id of a worker, in a cluster without the name of its node, or a dash."""
    name, node = str(worker.get("worker_id") or "-"), worker.get("node")
    return name.removeprefix(f"{node}.") if node else name
