"""`killable ps`: list the jobs of the server, running ones first.

Runs in: any machine.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from killable.api.cli.declarations.jobs import ON_A_SCREEN
from killable.api.cli.display import console, errors, spelling
from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.display.job_state import job_state
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_input import tag_filter

_ORDER = ("stopping", "running", "queued")
"""The order of the list; ended jobs follow, newest first."""


def ps(
    all_jobs: bool,
    state: str | None,
    type: str | None,
    tag: str | None,
    node: str | None,
    limit: int | None,
    full: bool,
    as_json: bool,
    url: str,
) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        wanted = state or (None if all_jobs else "active")
        jobs = in_order(list(client.jobs(state=wanted, type=type, tag=tag_filter(tag), node=node)))
        workers = client.workers() if jobs else []
        at_most = (0 if as_json or not sys.stdout.isatty() else ON_A_SCREEN) if limit is None else limit
        shown = jobs[:at_most] if at_most else jobs
        if as_json:
            holders = {worker["job_id"]: worker for worker in workers if worker.get("job_id")}
            console.print_json({"jobs": [{**job, "worker": holders.get(job["job_id"])} for job in shown]})
            return
        stderr = console.stderr_console()
        if not jobs:
            hint = "" if all_jobs or state else "; `killable ps -a` includes ended ones"
            stderr.print(f"no {'' if all_jobs else f'{wanted} '}jobs{hint}")
            return
        stderr.print(summary(jobs), style="dim")
        console.print_table(listing(shown, workers, full=full))
        if len(shown) < len(jobs):
            stderr.print(f"… and {len(jobs) - len(shown)} more (ps -n 0 shows all)", style="dim")


def in_order(jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return stopping, then running jobs, then the queue in its order, then ended jobs in the given order."""

    def rank(job: Mapping[str, Any]) -> tuple[int, int]:
        state = job["state"]
        position = (job.get("queue") or {}).get("position")
        place = position if state == "queued" and position is not None else 0
        return (_ORDER.index(state) if state in _ORDER else len(_ORDER), place)

    return sorted(jobs, key=rank)


def summary(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return `2 running, 498 queued`, in the order of the list."""
    counts = Counter(str(job["state"]) for job in jobs)
    states = [*_ORDER, *sorted(counts.keys() - set(_ORDER))]
    named = ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in states if counts[state])
    return f"{spelling.counted(len(jobs), 'job')}: {named}"


def listing(records: Sequence[Mapping[str, Any]], workers: Iterable[Mapping[str, Any]], *, full: bool) -> Listing:
    """Return JOB TYPE STATE AGE TOKENS WORKER PID CPU RSS; `full`: with whole ids. In a cluster with NODE, of which the
    id of a worker is said without it.
    """
    on_nodes = any(job.get("node") for job in records)
    table = Listing(
        [
            Column("JOB"), Column("TYPE", cut=True), Column("STATE"), Column("AGE", 6, numeric=True),
            Column("TOKENS", 5, numeric=True), *([Column("NODE", cut=True)] if on_nodes else []), Column("WORKER", 1),
            Column("PID", 4, numeric=True), Column("CPU", 3, numeric=True), Column("RSS", 2, numeric=True),
        ]
    )  # fmt: skip
    holders = {worker["job_id"]: worker for worker in workers if worker.get("job_id")}
    for job in records:
        worker = holders.get(job["job_id"], {})
        name = job["job_id"] if full else spelling.short(job["job_id"])
        table.add(
            name, spelling.plain(job["type"]), job_state(job), spelling.duration(_age_s(job)), str(job["tokens"]),
            *([spelling.plain(job["node"] or "-")] if on_nodes else []), _name_on_node(worker), spelling.pid(worker),
            spelling.share(worker.get("cpu")), spelling.size(worker.get("rss_bytes")),
        )  # fmt: skip
    return table


def _name_on_node(worker: Mapping[str, Any]) -> str:
    """Return the id of a worker, in a cluster without the name of its node, or a dash."""
    name, node = str(worker.get("worker_id") or "-"), worker.get("node")
    return name.removeprefix(f"{node}.") if node else name


def _age_s(job: Mapping[str, Any]) -> float | None:
    """Return the seconds since the job was accepted, also of an ended one."""
    return spelling.age_s(job["created_at"])
