"""Measures a server that others use, harmlessly: how soon it answers, and what it has counted of its own jobs.

Runs in: a benchmark (any machine).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from killable.api.cli.bench.plan import Plan
from killable.api.cli.bench.results import Results
from killable.workers.errors import Refused

if TYPE_CHECKING:
    from killable.api.client.client import Client

MEASURED = {
    "cancel_ms": "cancel → dead, of its jobs",
    "queue_wait_ms": "wait in the queue, of its jobs",
    "start_ms": "start of a job, of its jobs",
    "first_token_ms": "first line → first token, of its jobs",
    "recovery_ms": "worker lost → the next one warm",
}
"""Members of `GET /v1/metrics`, each with percentiles of its latest jobs."""


def measure(client: Client, plan: Plan, results: Results) -> None:
    """Ask, one request after the other, over one connection; start and stop nothing."""
    asked: dict[str, Callable[[], Any]] = {
        "GET /readyz": client.ready,
        "GET /v1/jobs, the first": lambda: next(iter(client.jobs()), None),
        "GET /v1/workers": client.workers,
    }
    for what, ask in asked.items():
        _measure_requests(what, ask, plan, results)
    try:
        metrics = client.metrics()
    except Refused as refused:
        results.remarks.append(f"what the server has measured is not for this key: {refused.message}")
        return
    for member, what in MEASURED.items():
        if (metrics.get(member) or {}).get("p50") is not None:
            results.row_of("server", what, "ms").told_by_server = dict(metrics[member])


def _measure_requests(what: str, ask: Callable[[], Any], plan: Plan, results: Results) -> None:
    try:
        ask()  # the first one connects
        for _ in range(plan.requests):
            began = time.monotonic()
            ask()
            results.row_of("server", what, "ms").values.append((time.monotonic() - began) * 1000)
    except Refused as refused:
        results.remarks.append(f"{what}: {refused.message}")
