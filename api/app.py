"""The application: routes, problems and checks over an engine, which the caller starts and closes.

Runs in: api.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Protocol

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from killable.api.http import (
    live_schemas,
    routes_files,
    routes_jobs,
    routes_live,
    routes_metrics,
    routes_operator,
    routes_outputs,
    routes_server,
    routes_story,
)
from killable.api.http.api_keys import KeyRing
from killable.api.http.app_settings import HttpSettings
from killable.api.http.audit_log import AuditLog
from killable.api.http.audited_requests import Audit
from killable.api.http.auth import KeyCheck
from killable.api.http.bodies import BodyCheck, LargeBodies
from killable.api.http.check_pool import CheckPool
from killable.api.http.connections_per_key import ConnectionsPerKey
from killable.api.http.cors import Cors
from killable.api.http.dependencies import Dependencies
from killable.api.http.error_forms import ErrorForms, Form, as_json_rpc
from killable.api.http.failed_keys import FailedKeys
from killable.api.http.host_and_origin import HostAndOriginCheck
from killable.api.http.input_check import InputCheck
from killable.api.http.methods import HeadAsGet
from killable.api.http.open_streams import OpenStreams, most_streams
from killable.api.http.plain_paths import PlainPaths
from killable.api.http.problems import install_problems, problem
from killable.api.http.rate_check import SubmissionRateCheck
from killable.api.http.request_metrics import MeasuredRequests, RequestMetrics
from killable.api.http.request_turns import InTurn, RequestTurns
from killable.api.http.route_roles import ACCESS, MCP_PATH, OPEN_PATHS
from killable.api.http.schemas import Problem
from killable.api.http.stream_tickets import Tickets
from killable.api.http.telemetry_sent import TelemetrySent
from killable.api.http.traced_requests import TracedRequests
from killable.api.http.webhooks import Webhooks
from killable.api.openai import error_answers
from killable.api.openai import request_body as openai_request_body
from killable.api.openai import routes as routes_openai
from killable.api.page.routes import ROUTES as PAGE_ROUTES
from killable.supervisor.engine import Engine
from killable.supervisor.files.file_store import FileStore
from killable.supervisor.telemetry import log_lines

_WAITED_FOR = (routes_jobs.submit_job, routes_outputs.stream_job, routes_openai.chat)
"""Clients wait for these. Their addresses are those of no other route."""


class Tools(Protocol):
    """What answers at MCP_PATH (`api/mcp/endpoint`, which is imported only where it is wanted)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def stop_listening(self) -> None: ...

    async def close(self) -> None: ...


def create_app(
    engine: Engine,
    settings: HttpSettings | None = None,
    audit_log: AuditLog | None = None,
    files: FileStore | None = None,
    tools: Tools | None = None,
    webhooks: Webhooks | None = None,
    telemetry: TelemetrySent | None = None,
) -> FastAPI:
    """Return the ASGI application over a started engine. One process may have several applications.

    `files` keeps the files of jobs; None: there are none. `webhooks`: None if it sends none; `telemetry` likewise. The
    caller closes the audit log, if there is one, and closes the engine before the server: this ends the jobs, and their
    streams end with terminal events.
    """
    settings = settings or HttpSettings()
    app = _App(
        title="killable",
        summary="Jobs that can be stopped",
        version=version("killable"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    tickets = Tickets() if settings.keys else None
    keys = KeyRing(settings.keys, settings.visibility) if settings.keys else None
    checks, turns = CheckPool(settings, [openai_request_body.JOBS]), RequestTurns(settings.waiting_max)
    streams = OpenStreams(
        most_streams(settings.connections_max), ping_s=settings.ping_s, send_timeout_s=settings.send_timeout_s
    )
    parts = app.state.parts = Dependencies(
        engine, settings, checks, InputCheck(checks), streams, tickets, keys, audit_log, turns, files, webhooks,
        RequestMetrics(), telemetry, [log_lines.trouble, *([] if audit_log is None else [lambda: audit_log.trouble])],
        [],
    )  # fmt: skip
    install_problems(app)
    app.router.routes += [*_api_routes(), *PAGE_ROUTES, _tools_route(tools)]
    # They are tried one after the other.
    app.router.routes.sort(key=lambda route: getattr(route, "endpoint", None) not in _WAITED_FOR)
    app.state.tools = tools
    _add_middleware(app, parts)
    return app


def _api_routes() -> list[BaseRoute]:
    """Return the routes of the API. Not by `include_router`: FastAPI looks into each of those twice for a request."""
    # The first two stand first: /v1/jobs/cancel and /v1/jobs/stream must be matched before /v1/jobs/{job_id}.
    every = (
        routes_operator, routes_live, routes_jobs, routes_openai, routes_outputs, routes_story, routes_files,
        routes_server, routes_metrics,
    )  # fmt: skip
    found = [route for routes in every for route in routes.router.routes]
    for route in found:
        if isinstance(route, APIRoute):  # generated clients name their calls by it
            route.operation_id = route.operation_id or route.name
    return found


def _add_middleware(app: FastAPI, parts: Dependencies) -> None:
    """Add what requests go through before a route has them."""
    # The last middleware added is the outermost. A foreign page is refused before it gets any CORS header; a page that
    # may call can read why a request was refused.
    app.add_middleware(HeadAsGet)
    app.add_middleware(LargeBodies, pool=parts.checks)
    app.add_middleware(BodyCheck, settings=parts.settings, keys=parts.keys)
    app.add_middleware(SubmissionRateCheck, engine=parts.engine)
    app.add_middleware(ConnectionsPerKey, keys=parts.keys, settings=parts.settings)
    if parts.tickets is not None and parts.keys is not None:
        app.add_middleware(
            KeyCheck, keys=parts.keys, tickets=parts.tickets, failed=FailedKeys(parts.settings.failed_key_delay_s)
        )
    if parts.settings.cors_origins:
        app.add_middleware(Cors, origins=parts.settings.origins)
    app.add_middleware(HostAndOriginCheck, settings=parts.settings)
    app.add_middleware(PlainPaths)
    if parts.audit_log is not None:
        app.add_middleware(Audit, log=parts.audit_log, engine=parts.engine)
    app.add_middleware(InTurn, turns=parts.turns, keys=parts.keys)
    app.add_middleware(ErrorForms, form_of=form_of)
    app.add_middleware(MeasuredRequests, metrics=parts.request_metrics)
    if parts.telemetry is not None and parts.telemetry.sends_traces:
        app.add_middleware(TracedRequests, telemetry=parts.telemetry)


def form_of(path: str, method: str = "POST") -> Form | None:
    """Return the form of the errors of an address; None: problem documents. Only a POST has a message of JSON-RPC."""
    return as_json_rpc if path == MCP_PATH and method == "POST" else error_answers.form_of(path)


def end_listening(app: FastAPI) -> None:
    """End the streams that have no job whose end would end them."""
    if app.state.tools is not None:
        app.state.tools.stop_listening()


async def close_app(app: FastAPI) -> None:
    """End the processes and tasks that an application has started."""
    if app.state.tools is not None:
        await app.state.tools.close()
    await app.state.parts.checks.close()


def _tools_route(tools: Tools | None) -> Route:
    methods = sorted(method for method, path in ACCESS if path == MCP_PATH)
    return Route(MCP_PATH, tools or _NoTools(), methods=methods, include_in_schema=False)


class _NoTools:
    """Says how to have job types as tools."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = "This server has no tools for MCP: `killable serve --mcp`, or mcp = true under [server], turns them on"
        await problem("not_found", told)(scope, receive, send)


class _App(FastAPI):
    """FastAPI with additions to `/openapi.json`: schemas of problems and events, and which routes need a key."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            description = super().openapi()
            components = description.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            components["schemas"] = live_schemas.definitions() | schemas
            if self.state.parts.settings.keys:
                _describe_keys(description)
        return super().openapi()


def _describe_keys(description: dict[str, Any]) -> None:
    description["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer"},
        "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "Part of `stream_url`"},
    }
    description["security"] = [{"key": []}]
    for path, operations in description["paths"].items():
        for operation in operations.values():
            if path in OPEN_PATHS:
                operation["security"] = []
            elif path.endswith("/stream"):
                operation["security"] = [{"key": []}, {"ticket": []}]
