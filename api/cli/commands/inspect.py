"""`killable inspect`: show one job with its error and its certificate, or one worker process, in full.

Runs in: any machine.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.certificate import certificate_table
from killable.api.cli.display.record_table import facts_table
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_lookup import UNKNOWN, find_job, find_worker
from killable.workers.errors import Refused

_RECORD_ORDER = (
    "job_id", "type", "state", "created_at", "started_at", "ended_at", "queue", "worker_id", "pid", "attempt", "tokens",
    "progress", "tags", "nodes", "priority", "correlation_id", "limits", "result", "partial",
)  # fmt: skip
"""The order of the members; unknown ones, of a newer server, follow."""
_OWN_TABLES = frozenset({"error", "certificate"})


def inspect(name: str, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        try:
            record = find_job(client, name).record()
        except Refused as refusal:
            worker = find_worker(client, name) if refusal.code in UNKNOWN else None
            if worker is None:
                raise
            console.print_json(worker) if as_json else console.print_table(facts_table(worker))
            return
        if as_json:
            console.print_json(record)
        else:
            _print_record(record)


def _print_record(record: dict[str, Any]) -> None:
    names = [name for name in (*_RECORD_ORDER, *record) if name in record and name not in _OWN_TABLES]
    console.print_table(facts_table({name: record[name] for name in dict.fromkeys(names)}))
    for name in ("error", "certificate"):
        members = record.get(name)
        if members:
            console.print_table(Text(f"\n{name}", "bold"))
            table = certificate_table(members) if name == "certificate" else facts_table(members)
            console.print_table(table)
