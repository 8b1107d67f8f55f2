"""`killable ps`: list the jobs of the server, running ones first, once or as they change.

Runs in: any machine.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from killable.api.cli import interrupts
from killable.api.cli.declarations.jobs import ON_A_SCREEN
from killable.api.cli.display import console, errors
from killable.api.cli.display.job_listing import holders_of, in_order, listing, summary
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_input import tag_filter
from killable.api.explanation import spelling
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.api.client.client import Client
    from killable.api.client.job_pages import JobFilters

STALL = "the event loop stood still"
"""Of `/readyz`: it is over when it is told, up to two minutes later, and no job waits for it."""
POOLS_FROM_COLUMNS = 120
"""From this width there is room for the pool of a job that has no worker, for which the job types are asked."""


def ps(
    all_jobs: bool,
    state: str | None,
    type: str | None,
    tag: str | None,
    node: str | None,
    limit: int | None,
    full: bool,
    watch: bool,
    as_json: bool,
    url: str,
) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        wanted = state or (None if all_jobs else "active")
        filters: JobFilters = {"state": wanted, "type": type, "tag": tag_filter(tag), "node": node}
        pools = {} if as_json or console.stdout_columns() < POOLS_FROM_COLUMNS else _pools(client)
        if watch:
            client.info()
            try:
                interrupts.run(_watch(url, filters, pools, at_most=limit or 0, full=full, as_json=as_json))
            except BrokenPipeError:  # its reader ends it, as an interrupt does: nothing has failed
                console.discard(sys.stdout)
            return
        jobs = in_order(list(client.jobs(**filters)))
        workers = client.workers() if jobs else []
        at_most = (0 if as_json or not sys.stdout.isatty() else ON_A_SCREEN) if limit is None else limit
        shown = jobs[:at_most] if at_most else jobs
        if as_json:
            holders = holders_of(shown, workers)
            console.print_json({"jobs": [{**job, "worker": holders.get(job["job_id"])} for job in shown]})
            return
        stderr = console.stderr_console()
        if degraded := _degraded(client):
            stderr.print(f"degraded: {degraded}", style="yellow")
        ended = _ended_lately(client)
        if not jobs:
            hint = "" if all_jobs or state else "; `killable ps -a` includes ended ones"
            stderr.print(f"no {'' if all_jobs else f'{wanted} '}jobs{hint}{ended}")
            return
        stderr.print(f"{summary(jobs)}{ended}", style="dim")
        console.print_table(listing(shown, workers, full=full, pools=pools))
        if len(shown) < len(jobs):
            stderr.print(f"… and {len(jobs) - len(shown)} more (ps -n 0 shows all)", style="dim")


async def _watch(
    url: str, filters: JobFilters, pools: Mapping[str, str], *, at_most: int, full: bool, as_json: bool
) -> None:
    from killable.api.cli.top.ps_watch import JobListWatch
    from killable.api.client.async_client import AsyncClient

    with warnings.catch_warnings(action="ignore"):  # what is wrong with the address was said already
        client = AsyncClient(url, retries=0)
    async with client:
        await JobListWatch(client, filters, pools, at_most=at_most, full=full).run(as_json)


def _degraded(client: Client) -> str:
    """Return what is wrong with the server: why a job waits although a worker is idle."""
    try:
        found = client.ready().get("degraded")
    except Refused as refusal:  # no job can start
        found = refusal.facts.get("degraded") or [refusal.message]
    return "; ".join(spelling.plain(each) for each in found or () if not str(each).startswith(STALL))


def _ended_lately(client: Client) -> str:
    """Return how many jobs ended in the last minute, as the end of a line; empty for a key that may not know."""
    try:
        lately = client.metrics().get("ended_last_minute")  # absent from older servers
    except Refused:
        return ""
    return "" if lately is None else f"; {lately} ended in the last minute"


def _pools(client: Client) -> dict[str, str]:
    """Return the pool of each job type."""
    return {str(each["name"]): str(each.get("pool") or "") for each in client.types()}
