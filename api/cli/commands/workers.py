"""`killable workers`: list the server's worker processes, or its pools.

Runs in: any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.display.job_state import state_text
from killable.api.cli.parameters.command_client import open_client
from killable.api.explanation import spelling
from killable.workers.errors import Refused


def workers(node: str | None, pools: bool, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        if pools:
            if node is not None:
                raise Refused("--pools lists those of all machines: leave --node out", code="invalid")
            with closing(client.watch_workers(workers=False)) as stream:
                now = next(stream)
            document = {"pools": now["pools"]}
            if as_json:
                console.print_json(document)
                return
            console.print_table(pool_listing(now["pools"]))
            if any(any(pool.get("replaced", {}).values()) for pool in now["pools"]):  # absent from older servers
                console.print_table(Text("\nworkers that have ended", "bold"))
                console.print_table(replaced_listing(now["pools"]))
            return
        answer = client.workers_and_retired()
        if node is not None:
            answer = answer | {"workers": [each for each in answer["workers"] if each.get("node") == node]}
        found, retired = answer["workers"], answer.get("retired")  # absent from older servers
        if as_json:
            console.print_json(answer)
            return
        if found:
            counts = Counter(str(worker["state"]) for worker in found)
            named = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
            console.stderr_console().print(f"{spelling.counted(len(found), 'worker')}: {named}", style="dim")
            console.print_table(worker_listing(found))
        else:
            why = "no pool is ready (`killable doctor --url URL` checks the server)"
            why = (
                why if node is None else f"there are none on {spelling.plain(node)} (`killable nodes` lists the nodes)"
            )
            console.stderr_console().print(f"no workers: {why}")
        if retired:
            console.print_table(Text("\nnot reused", "bold"))
            console.print_table(retired_listing(retired))


def worker_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return WORKER POOL STATE JOB TYPE PID AGE JOBS CPU RSS USS, in a cluster after NODE."""
    on_nodes = any(worker.get("node") for worker in records)
    node = [Column("NODE", 1, cut=True)] if on_nodes else []
    listing = Listing(
        [
            *node, Column("WORKER"), Column("POOL", 5, cut=True), Column("STATE"), Column("JOB"),
            Column("TYPE", 4, cut=True), Column("PID", numeric=True), Column("AGE", 6, numeric=True),
            Column("JOBS", 2, numeric=True), Column("CPU", 7, numeric=True), Column("RSS", 3, numeric=True),
            Column("USS", 1, numeric=True),
        ]
    )  # fmt: skip
    for worker in records:
        job_id = worker.get("job_id")
        listing.add(
            *([spelling.plain(worker["node"] or "-")] if on_nodes else []),
            str(worker["worker_id"]), str(worker["pool"]), state_text(str(worker["state"])),
            spelling.short(job_id) if job_id else "-", spelling.plain(worker.get("type") or "-"), spelling.pid(worker),
            spelling.duration(worker.get("age_s")), str(worker.get("jobs", "-")), spelling.share(worker.get("cpu")),
            spelling.size(worker.get("rss_bytes")), spelling.size(worker.get("uss_bytes")),
        )  # fmt: skip
    return listing


def pool_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return POOL STATE START BUSY IDLE STARTING SPARES QUEUED LOST RESTARTS RECOVERY CODE."""
    listing = Listing(
        [
            Column("POOL", cut=True), Column("STATE"), Column("START", 5), Column("BUSY", numeric=True),
            Column("IDLE", numeric=True), Column("STARTING", 4, numeric=True), Column("SPARES", 6, numeric=True),
            Column("QUEUED", numeric=True), Column("LOST", 1, numeric=True), Column("RESTARTS", 1, numeric=True),
            Column("RECOVERY", 2, numeric=True), Column("CODE", 7, numeric=True),
        ]
    )  # fmt: skip
    for pool in records:
        recovery = [pool["recovery_ms"][name] for name in ("last", "p50")]
        told = "-" if recovery[0] is None else ", ".join(spelling.milliseconds(ms) for ms in recovery)
        listing.add(
            spelling.plain(pool["name"]), state_text(str(pool["state"])), str(pool["start_method"]),
            f"{pool['busy']}/{pool['workers']}", str(pool["idle"]), str(pool["starting"]), str(pool["spares"]),
            str(pool["queued"]), str(pool["quarantined"]), str(pool["restarts"]), told, str(pool["generation"]),
        )  # fmt: skip
    return listing


def replaced_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return POOL, and a column for each reason for which a worker ends."""
    reasons = [*records[0]["replaced"]]
    columns = [Column(why.replace("_", " ").upper(), numeric=True) for why in reasons]
    listing = Listing([Column("POOL", cut=True), *columns])
    for pool in records:
        listing.add(spelling.plain(pool["name"]), *(str(pool["replaced"][why]) for why in reasons))
    return listing


def retired_listing(records: Sequence[Mapping[str, Any]]) -> Listing:
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
        ago = spelling.duration(spelling.age_s(each["at"]))
        listing.add(
            str(each["worker_id"]), str(each["pool"]), spelling.short(each["job_id"]), ago, spelling.plain(each["why"])
        )
    return listing
