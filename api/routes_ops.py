"""The routes of the server itself: job types, workers, condition, version.

Runs in: api.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from killable.api import schemas
from killable.api.answers import CANCEL_WAIT_S, NO_BODY, EngineOf, Json, PreferWait, documented
from killable.api.problems import problem
from killable.workers.errors import Refused

FEATURES = ("events", "markers", "resume", "stop_when_client_leaves")
"""What a client may rely on beyond the plain routes; the list only grows."""

router = APIRouter(tags=["server"], default_response_class=Json)


@router.get("/v1/job-types", responses=documented({200: {"model": schemas.JobTypeList}}))
async def list_job_types(engine: EngineOf) -> Response:
    """List the job types that clients can start, with the schema of each one's input."""
    types = [asdict(job_type) for job_type in await engine.job_types() if job_type.codec == "json"]
    return Json({"job_types": types})


@router.get("/v1/workers", responses=documented({200: {"model": schemas.WorkerList}}))
async def list_workers(engine: EngineOf) -> Response:
    """List the worker processes of this server, and only those."""
    return Json({"workers": [asdict(worker) for worker in await engine.workers()]})


@router.get("/v1/workers/{worker_id}", responses=documented({200: {"model": schemas.Worker}}, "unknown_worker"))
async def get_worker(worker_id: str, engine: EngineOf) -> Response:
    """Return one worker process."""
    for worker in await engine.workers():
        if worker.worker_id == worker_id:
            return Json(asdict(worker))
    raise Refused(code="unknown_worker")


@router.delete(
    "/v1/workers/{worker_id}",
    responses=documented(
        {
            200: {"model": schemas.Worker, "description": "The worker is dead"},
            202: {"model": schemas.Worker, "description": "Still stopping after the wait"},
        },
        "unknown_worker",
        "invalid",
    ),
    dependencies=[NO_BODY],
)
async def kill_worker(
    worker_id: str, query: Annotated[schemas.KillQuery, Query()], engine: EngineOf, wait_s: PreferWait
) -> Response:
    """Kill one worker process; its job, if it has one, ends cancelled by the operator."""
    worker = await engine.kill_worker(
        worker_id, reason=query.reason, wait_s=CANCEL_WAIT_S if wait_s is None else wait_s
    )
    return Json(asdict(worker), 202 if worker.state == "stopping" else 200)


@router.get("/livez", responses={200: {"model": schemas.Health}})
@router.get("/health", responses={200: {"model": schemas.Health}})
async def live() -> Response:
    """Answer while the event loop turns; never looks at workers."""
    return Json({"status": "healthy"})


@router.get("/readyz", responses=documented({200: {"model": schemas.Readiness}}, "draining"))
async def ready(engine: EngineOf) -> Response:
    """Tell whether any job can start, and everything that is degraded."""
    can_start, degraded = await engine.ready()
    if can_start:
        pools = [{"name": pool.name, "state": pool.state, "detail": pool.detail} for pool in await engine.pools()]
        return Json({"status": "degraded" if degraded else "ok", "degraded": degraded, "pools": pools})
    return problem("draining", "; ".join(degraded), members={"degraded": degraded})


@router.get("/v1/info", responses=documented({200: {"model": schemas.Info}}))
async def info(request: Request, engine: EngineOf) -> Response:
    """Say which server this is."""
    about: dict[str, Any] = {"version": request.app.version, "features": FEATURES}
    return Json(about | {"instance_id": engine.instance_id, "started_at": engine.started_at})
