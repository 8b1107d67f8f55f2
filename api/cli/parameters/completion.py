"""What the shell offers at a TAB: ids, types and states, asked of the server when it answers at once, else nothing.

Runs in: any machine, in the completion that a shell starts; it must neither wait nor print nor fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from killable.api.cli.display import render

if TYPE_CHECKING:
    import httpx

PATIENCE_S = 0.5
"""A person at a prompt takes longer for a hang."""
OFFERED_MAX = 100
STATES = ("active", "queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out")

Offers = list[tuple[str, str]]
"""What may stand there, and a word about it for the shells that show one."""
Ask = Callable[[str, Mapping[str, str]], Any]
"""Path and query to the JSON of the answer; raises what it likes."""


def states(incomplete: str) -> list[str]:
    return [name for name in STATES if name.startswith(incomplete)]


def jobs(ctx: typer.Context, incomplete: str) -> Offers:
    """Offer the jobs that the server knows, the newest first."""
    return _offered(ctx, incomplete, _jobs)


def killable_names(ctx: typer.Context, incomplete: str) -> Offers:
    """Offer the jobs that can still be killed, and the workers."""
    return _offered(ctx, incomplete, lambda ask: _jobs(ask, state="active") + _workers(ask))


def jobs_and_workers(ctx: typer.Context, incomplete: str) -> Offers:
    return _offered(ctx, incomplete, lambda ask: _jobs(ask) + _workers(ask))


def job_types(ctx: typer.Context, incomplete: str) -> Offers:
    return _offered(ctx, incomplete, _types)


def _jobs(ask: Ask, **query: str) -> Offers:
    records = ask("/v1/jobs", query | {"limit": str(OFFERED_MAX)})["jobs"]
    return [(render.short(record["job_id"]), f"{record['type']} {record['state']}") for record in records]


def _workers(ask: Ask) -> Offers:
    return [(w["worker_id"], f"{w['pool']} {w['state']}") for w in ask("/v1/workers", {})["workers"]]


def _types(ask: Ask) -> Offers:
    return [(t["name"], t["description"]) for t in ask("/v1/job-types", {})["job_types"]]


def _offered(ctx: typer.Context, incomplete: str, find: Callable[[Ask], Offers]) -> Offers:
    """Ask the server that the line names so far; whatever goes wrong, offer nothing: there is nobody to tell."""
    try:
        from killable.api.client.exchange import DEFAULT_URL

        address = str(ctx.params.get("url") or os.environ.get("KILLABLE_URL") or DEFAULT_URL)
        with impatient(address, PATIENCE_S) as http:
            found = find(lambda path, query: http.get(path, params=dict(query)).raise_for_status().json())
    except Exception:
        return []
    return [(name, render.plain(words)) for name, words in found if name.startswith(incomplete)]


def impatient(address: str, timeout_s: float) -> httpx.Client:
    """Return an HTTP client that gives up soon; the library's own waits as long as a job may take. It goes by the same
    proxies, with the same key. Raise what that raises.
    """
    import httpx

    from killable.api.client.exchange import Server

    server = Server.at(address, uds=None, api_key=None, headers=None, connect_s=timeout_s, answer_s=timeout_s)
    return server.open_http(
        httpx.Client, httpx.HTTPTransport, base_url=server.url, headers=dict(server.headers), timeout=timeout_s
    )
