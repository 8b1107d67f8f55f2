"""Routes for the server itself: job types, workers, health, version.

Runs in: api.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from killable.api.http import schemas
from killable.api.http.api_keys import KeyRing
from killable.api.http.audited_requests import note_jobs
from killable.api.http.auth import caller_of, is_operator, key_name_of, tenant_of
from killable.api.http.cancel_wait import cancel_wait_s
from killable.api.http.dependencies import engine_of, parts_of
from killable.api.http.prefer_wait import Preferred
from killable.api.http.problems import problem
from killable.api.http.responses import NO_BODY, Json, answer, documented
from killable.api.http.route_roles import SOCKET_USER
from killable.supervisor.models import DEFAULT_TENANT
from killable.workers.errors import Refused

FEATURES = (
    *("events", "markers", "resume", "stop_when_client_leaves", "output", "prefer_wait", "idempotency_key"),
    *("correlation_id", "bulk_cancel", "drain", "shutdown", "metrics", "api_keys", "stream_tickets"),
    *("tenants", "nodes", "reload", "files", "live_streams", "story"),
)
"""Features that a client may rely on beyond the plain routes. None is ever removed."""

LIVE_RESPONSES = documented({200: answer("The event loop runs", schemas.Health)}, protected=False)

router = APIRouter(tags=["server"], default_response_class=Json)


@router.get("/v1/job-types", responses=documented({200: answer("All types", schemas.JobTypeList)}))
async def list_job_types(request: Request) -> Response:
    """List the job types that clients can start, each with the schema of its input."""
    engine = engine_of(request)
    types = [job_type._asdict() for job_type in await engine.job_types() if job_type.codec == "json"]
    return Json({"job_types": types})


@router.get("/v1/workers", responses=documented({200: answer("All workers", schemas.WorkerList)}))
async def list_workers(request: Request, query: Annotated[schemas.WorkersQuery, Query()]) -> Response:
    """List the worker processes of this server, and the latest that were not reused."""
    engine = engine_of(request)
    workers, retired = await engine.workers(), await engine.retired()
    if query.node is not None:
        workers = [each for each in workers if each.node == query.node]
    return Json({"workers": [each._asdict() for each in workers], "retired": [each._asdict() for each in retired]})


@router.get(
    "/v1/workers/{worker_id}", responses=documented({200: answer("The worker", schemas.Worker)}, "unknown_worker")
)
async def get_worker(request: Request, worker_id: str) -> Response:
    """Return one worker process."""
    engine = engine_of(request)
    for worker in await engine.workers():
        if worker.worker_id == worker_id:
            return Json(worker._asdict())
    raise Refused(f"there is no worker {worker_id}, or it has ended", code="unknown_worker", worker_id=worker_id)


@router.delete(
    "/v1/workers/{worker_id}",
    responses=documented(
        {
            200: answer("The worker is dead", schemas.Worker, "Preference-Applied"),
            202: answer("Still stopping after the wait", schemas.Worker, "Preference-Applied"),
        },
        "unknown_worker",
        "invalid",
    ),
    dependencies=[NO_BODY],
)
async def kill_worker(
    request: Request, worker_id: str, query: Annotated[schemas.KillQuery, Query()], preference: Preferred
) -> Response:
    """Kill one worker process. Its job, if it has one, is cancelled by the operator."""
    engine = engine_of(request)
    wait_s = cancel_wait_s(preference)
    worker = await engine.kill_worker(worker_id, reason=query.reason, wait_s=wait_s, key=key_name_of(request))
    note_jobs(request, [worker.job_id] if worker.job_id else [])
    return Json(worker._asdict(), 200 if worker.state == "gone" else 202, preference.headers)


@router.get("/v1/nodes", responses=documented({200: answer("All nodes", schemas.NodeList)}))
async def list_nodes(request: Request) -> Response:
    """List the machines of a cluster, as its head sees them; none where the server is one machine."""
    return Json({"nodes": [each._asdict() for each in await engine_of(request).nodes()]})


@router.post(
    "/v1/nodes/{name}/drain",
    responses=documented({200: answer("It gets no more jobs", schemas.Node)}, "unknown_node", "journal_failed"),
    dependencies=[NO_BODY],
)
async def drain_node(request: Request, name: str, query: Annotated[schemas.NodeDrainQuery, Query()]) -> Response:
    """Give a node no more jobs. What runs there goes on, without a deadline until it ends."""
    return Json((await engine_of(request).drain_node(name, deadline_s=query.deadline_s))._asdict())


@router.delete(
    "/v1/nodes/{name}/drain",
    responses=documented({200: answer("It gets jobs again", schemas.Node)}, "unknown_node", "journal_failed"),
    dependencies=[NO_BODY],
)
async def undrain_node(request: Request, name: str) -> Response:
    """Give a node jobs again; also one that is not there, and was drained before."""
    return Json((await engine_of(request).drain_node(name, drains=False))._asdict())


@router.get("/v1/tenants", responses=documented({200: answer("The tenants", schemas.TenantList)}))
async def list_tenants(request: Request) -> Response:
    """List what each tenant has now, beside its bounds. A key that is not an operator's gets its own tenant only."""
    sees_all = caller_of(request.scope) is None or is_operator(request.scope)
    keys = parts_of(request).keys
    found = await engine_of(request).tenants(
        None if sees_all else tenant_of(request), is_operator=lambda name: _is_operator(name, keys)
    )  # fmt: skip
    return Json({"tenants": [each._asdict() | {"has_key": _has_key(each.tenant, keys)} for each in found]})


def _is_operator(tenant: str, keys: KeyRing | None) -> bool:
    key = None if keys is None else keys.named(tenant)
    return tenant.startswith(SOCKET_USER) or (key is not None and key.role == "operate")


def _has_key(tenant: str, keys: KeyRing | None) -> bool:
    is_name = tenant == DEFAULT_TENANT if keys is None else keys.has(tenant)
    return is_name or tenant.startswith(SOCKET_USER)


@router.get("/livez", responses=LIVE_RESPONSES)
@router.get("/health", responses=LIVE_RESPONSES, operation_id="health")
async def live() -> Response:
    """Answer while the event loop runs. Does not check the workers."""
    return Json({"status": "healthy"})


@router.get(
    "/readyz",
    responses=documented(
        {200: answer("At least one job type can start", schemas.Readiness)}, "draining", protected=False
    ),
)
async def ready(request: Request) -> Response:
    """Return whether any job can start, and everything that is degraded."""
    parts = parts_of(request)
    # If the server has keys, a request without one gets no traceback, which may quote confidential values.
    shows_detail = parts.tickets is None or caller_of(request.scope) is not None
    can_start, degraded = await parts.readiness(reasons=shows_detail)
    pools = [
        {"name": pool.name, "state": pool.state, "detail": pool.detail if shows_detail else ""}
        for pool in await parts.engine.pools()
    ]
    if can_start:
        return Json({"status": "degraded" if degraded else "ok", "degraded": degraded, "pools": pools})
    return problem("draining", "; ".join(degraded), members={"degraded": degraded, "pools": pools})


@router.get("/v1/info", responses=documented({200: answer("Facts about the server", schemas.Info)}))
async def info(request: Request) -> Response:
    """Return the server's version, process id, features, instance id and start time, and who asks."""
    engine = engine_of(request)
    about: dict[str, Any] = {"version": request.app.version, "pid": os.getpid(), "features": FEATURES}
    key = caller_of(request.scope)
    caller = key and {"name": key.name, "role": key.role, "visibility": key.visibility}
    return Json(about | {"instance_id": engine.instance_id, "started_at": engine.started_at, "caller": caller})
