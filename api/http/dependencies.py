"""The parts of one application, and how its routes get them.

Runs in: api. Not FastAPI's dependencies: each costs a request 30 µs, and these parts are the same for all requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, cast

from fastapi import Request

from killable.api.http.api_keys import KeyRing
from killable.api.http.app_settings import HttpSettings
from killable.api.http.audit_log import AuditLog
from killable.api.http.auth import tenant_seen_by
from killable.api.http.check_pool import CheckPool
from killable.api.http.input_check import InputCheck
from killable.api.http.open_streams import OpenStreams
from killable.api.http.own_jobs import OwnJobs
from killable.api.http.request_metrics import RequestMetrics
from killable.api.http.request_turns import RequestTurns
from killable.api.http.stream_tickets import Tickets
from killable.api.http.telemetry_sent import TelemetrySent
from killable.api.http.webhooks import Webhooks
from killable.supervisor.engine import Engine
from killable.supervisor.files.file_store import FileStore


class FilesOfServer(Protocol):
    """What a server has read at its start, beside the code of its jobs."""

    async def read_again(self) -> None:
        """Read it as it is now. What has a fault stays as it was."""

    def not_read(self) -> tuple[str, ...]:
        """Return what stays as it was, and why: a sentence each."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The parts that routes use. `tickets` is None if the server has no keys, so that anyone may read its streams."""

    engine: Engine
    settings: HttpSettings
    checks: CheckPool
    input_check: InputCheck
    streams: OpenStreams
    tickets: Tickets | None
    keys: KeyRing | None
    audit_log: AuditLog | None
    turns: RequestTurns
    files: FileStore | None
    """What keeps uploaded files, and those that jobs save; None: the server keeps none."""
    webhooks: Webhooks | None
    """None: this server sends none."""
    request_metrics: RequestMetrics
    telemetry: TelemetrySent | None
    """None: this server sends none."""
    troubles: list[Callable[[], str]]
    """What is asked for a fault of the server around its supervisor: each returns it, or ""."""
    server_files: list[FilesOfServer]
    """One, or none."""

    async def readiness(self, *, reasons: bool = False) -> tuple[bool, list[str]]:
        """Return whether any job can start, and everything that is wrong with the server.

        `reasons`: also why a pool is as it is, which is the last line of a traceback and may quote confidential values.
        """
        can_start, degraded = await self.engine.ready(reasons=reasons)
        return can_start, [*degraded, *(text for trouble in self.troubles if (text := trouble()))]


def parts_of(request: Request) -> Dependencies:
    """Return the parts of the application that received the request, with the engine as its key may have it."""
    parts = cast(Dependencies, request.app.state.parts)
    tenant = tenant_seen_by(request)
    return parts if tenant is None else replace(parts, engine=OwnJobs(parts.engine, tenant))


def engine_of(request: Request) -> Engine:
    """Return the engine of the application that received the request, as its key may have it."""
    return parts_of(request).engine
