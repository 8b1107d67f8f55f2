"""Shell completion of ids, types and states: from the server if it answers at once, else empty.

Runs in: any machine, in the completion that a shell starts; it must neither wait nor print nor fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import httpx
    from click.shell_completion import CompletionItem

ANSWER_S = 0.5
"""Seconds to wait for the server: at a prompt, a longer pause looks like a hang."""
OFFERED_MAX = 100
STATES = ("active", "queued", "running", "stopping", "completed", "failed", "cancelled", "timed_out")

Offers = list[tuple[str, str]]
"""Completions, each with a description for the shells that show one."""
Ask = Callable[[str, Mapping[str, str]], Any]
"""Takes a path and a query, returns the JSON of the answer; may raise any exception."""


def states(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in STATES if name.startswith(incomplete)]


def jobs(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the jobs that the server knows, the newest first."""
    return _offered(ctx, incomplete, _jobs)


def killable_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the jobs that can still be killed, and the workers."""
    return _offered(ctx, incomplete, lambda ask: _jobs(ask, state="active") + _workers(ask))


def jobs_and_workers(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _offered(ctx, incomplete, lambda ask: _jobs(ask) + _workers(ask))


def job_types(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _offered(ctx, incomplete, _types)


def _jobs(ask: Ask, **query: str) -> Offers:
    from killable.api.explanation import spelling

    records = ask("/v1/jobs", query | {"limit": str(OFFERED_MAX)})["jobs"]
    return [(spelling.short(record["job_id"]), f"{record['type']} {record['state']}") for record in records]


def _workers(ask: Ask) -> Offers:
    return [(w["worker_id"], f"{w['pool']} {w['state']}") for w in ask("/v1/workers", {})["workers"]]


def _types(ask: Ask) -> Offers:
    return [(t["name"], t["description"]) for t in ask("/v1/job-types", {})["job_types"]]


def _offered(ctx: click.Context, incomplete: str, find: Callable[[Ask], Offers]) -> list[CompletionItem]:
    """Ask the server of the command line so far. Return nothing on any error: it cannot be reported here."""
    from click.shell_completion import CompletionItem

    from killable.api.explanation import spelling

    try:
        from killable.api.cli.parameters.local_asks import local_asker
        from killable.api.client.addresses import DEFAULT_URL

        address = str(ctx.params.get("url") or os.environ.get("KILLABLE_URL") or DEFAULT_URL)
        ask = local_asker(address, ANSWER_S)
        if ask is not None:
            found = find(ask)
        else:
            with short_timeout_client(address, ANSWER_S) as http:
                found = find(lambda path, query: http.get(path, params=dict(query)).raise_for_status().json())
    except Exception:
        return []
    return [CompletionItem(name, help=spelling.plain(words)) for name, words in found if name.startswith(incomplete)]


def short_timeout_client(address: str, timeout_s: float) -> httpx.Client:
    """Return an HTTP client with a short timeout; the library's own client waits as long as a job may take.

    It uses the same proxies and API key as that one, and raises the same errors.
    """
    import httpx

    from killable.api.client.httpx_client import open_httpx
    from killable.api.client.server_answers import Server

    server = Server.at(address, uds=None, api_key=None, headers=None, connect_s=timeout_s, answer_s=timeout_s)
    return open_httpx(
        server, httpx.Client, httpx.HTTPTransport, base_url=server.url, headers=dict(server.headers), timeout=timeout_s
    )
