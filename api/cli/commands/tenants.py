"""`killable tenants`: what each tenant has now, beside its bounds.

Runs in: any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from killable.api.cli.display import console, errors
from killable.api.cli.display.fitted_table import Column, Listing
from killable.api.cli.parameters.command_client import open_client
from killable.api.explanation import spelling


def tenants(as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        found = client.tenants()
        if as_json:
            console.print_json({"tenants": found})
        elif found:
            console.print_table(listing(found))
            if not all(tenant.get("has_key", True) for tenant in found):
                console.stderr_console().print("* no API key has this name", style="dim")
        else:
            console.stderr_console().print("no tenant has a job, a result or a stream now", style="dim")


def listing(records: Sequence[Mapping[str, Any]]) -> Listing:
    """Return TENANT QUEUED BYTES RUNNING KEPT BYTES STREAMS KEYS RATE PRIORITY; `3/10` is 3 of at most 10.

    A name that no API key has ends with a star.
    """
    table = Listing(
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
        table.add(
            f"{tenant['tenant']}{'' if tenant.get('has_key', True) else '*'}",
            _of(tenant["queued"], bounds["queue_jobs_max"]),
            _size_of(tenant["queued_bytes"], bounds["queue_bytes_max"]),
            _of(tenant["running"], bounds["running_max"]), _of(tenant["kept"], bounds["keep_jobs"]),
            _size_of(tenant["kept_bytes"], bounds["keep_bytes"]), _of(tenant["streams"], bounds["streams_max"]),
            str(tenant["idempotency_keys"]), "-" if rate is None else f"{rate:g}/s",
            "-" if priority is None else f"≤ {priority}",
        )  # fmt: skip
    return table


def _of(number: int, bound: int | None) -> str:
    return f"{number}" if bound is None else f"{number}/{bound}"


def _size_of(number: int, bound: int | None) -> str:
    return spelling.size(number) + ("" if bound is None else f"/{spelling.size(bound)}")
