"""`killable ps` and `inspect`: what the server holds, and one job or worker in full.

Runs in: any machine.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import typer
from rich.text import Text

from killable.api.cli import exits, render
from killable.api.cli.arguments import tag_filter
from killable.api.cli.names import find_job, find_worker
from killable.api.cli.options import Json, Url, open_client
from killable.api.transport import DEFAULT_URL
from killable.workers.errors import Refused

_RECORD_ORDER = (
    "job_id", "type", "state", "created_at", "started_at", "ended_at", "queue", "worker_id", "pid", "attempt", "tokens",
    "progress", "tags", "priority", "limits", "result", "partial",
)  # fmt: skip
"""What people look for first; members of a newer server follow."""
_OWN_TABLES = frozenset({"error", "certificate"})


def ps(
    all_jobs: Annotated[bool, typer.Option("-a", "--all", help="Ended jobs, too.")] = False,
    state: Annotated[
        str | None,
        typer.Option("--state", help="queued, running, stopping, completed, failed, cancelled, timed_out, active."),
    ] = None,
    type: Annotated[str | None, typer.Option("--type", help="Jobs of this type.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="KEY=VALUE", help="Jobs with this tag.")] = None,
    limit: Annotated[int, typer.Option("-n", min=1, help="At most so many, the newest.")] = 1000,
    full: Annotated[bool, typer.Option("--full", help="Full ids.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, newest first, with the worker process of each that runs."""
    with exits.reporting(as_json), open_client(url) as client:
        wanted = state or (None if all_jobs else "active")
        jobs = list(islice(client.jobs(state=wanted, type=type, tag=tag_filter(tag)), limit))
        workers = client.workers()
        if as_json:
            holders = {worker["job_id"]: worker for worker in workers if worker.get("job_id")}
            exits.print_json({"jobs": [job | {"worker": holders.get(job["job_id"])} for job in jobs]})
        elif jobs:
            exits.print_table(render.jobs_table(jobs, workers, wide=full))
        else:
            hint = "" if all_jobs or state else "; killable ps -a lists ended ones"
            exits.stderr_console().print(f"no {'' if all_jobs else f'{wanted} '}jobs{hint}")


def inspect(
    name: Annotated[
        str, typer.Argument(metavar="JOB|WORKER", help="An id, or a unique prefix of one.", show_default=False)
    ],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show one job, with its error and its certificate, or one worker process."""
    with exits.reporting(as_json), open_client(url) as client:
        try:
            record = find_job(client, name).record()
        except Refused as refusal:
            worker = find_worker(client, name) if refusal.code == "unknown_job" else None
            if worker is None:
                raise
            exits.print_json(worker) if as_json else exits.print_table(render.facts_table(worker))
            return
        if as_json:
            exits.print_json(record)
        else:
            _print_record(record)


def _print_record(record: dict[str, Any]) -> None:
    names = [name for name in (*_RECORD_ORDER, *record) if name in record and name not in _OWN_TABLES]
    exits.print_table(render.facts_table({name: record[name] for name in dict.fromkeys(names)}))
    for name in ("error", "certificate"):
        members = record.get(name)
        if members:
            exits.print_table(Text(f"\n{name}", "bold"))
            table = render.certificate_table(members) if name == "certificate" else render.facts_table(members)
            exits.print_table(table)
