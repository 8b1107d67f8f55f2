"""Routes for operators: cancel many jobs, drain, load the code anew, shut down.

Runs in: api.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from killable.api.http import schemas
from killable.api.http.audited_requests import note_jobs
from killable.api.http.auth import key_name_of
from killable.api.http.cancel_wait import cancel_wait_s
from killable.api.http.dependencies import engine_of, parts_of
from killable.api.http.prefer_wait import Preferred
from killable.api.http.request_faults import fault, invalid
from killable.api.http.responses import BODY_CODES, NO_BODY, Json, answer, documented
from killable.supervisor.records import ReloadRecord

RELOAD_WAIT_S = 10.0
"""Default wait for new code to be loaded."""
DRAIN_RESPONSES = documented({202: answer("Begun", schemas.Drained)}, "invalid")

router = APIRouter(tags=["operator"], default_response_class=Json)


@router.post(
    "/v1/jobs/cancel",
    responses=documented(
        {
            200: answer("All matching jobs have ended", schemas.BulkCancelAnswer, "Preference-Applied"),
            202: answer("Some are still stopping", schemas.BulkCancelAnswer, "Preference-Applied"),
        },
        *BODY_CODES,
    ),
)
async def cancel_jobs(
    request: Request, body: Annotated[schemas.BulkCancelRequest, Body()], preference: Preferred
) -> Response:
    """Cancel all jobs that match a filter; none of them starts meanwhile. Waits as long as the cancel of one job."""
    engine = engine_of(request)
    wanted = schemas.wanted_by(dict(body))
    if not any(wanted.values()):
        raise invalid(
            [
                fault(
                    "body",
                    [],
                    f'needs one of {", ".join(schemas.JOB_FILTERS)}; {{"state": "active"}} selects every active job',
                )
            ]
        )
    done = await engine.cancel_matching(
        reason=body.reason,
        grace_s=body.grace_s,
        wait_s=cancel_wait_s(preference),
        dry_run=body.dry_run,
        key=key_name_of(request),
        **wanted,
    )
    if not body.dry_run:
        note_jobs(request, [job_id for job_id, _ in done.jobs])
    statuses = [] if body.dry_run else [status for _, status in done.jobs]
    counts = {status: statuses.count(status) for status in ("cancelled", "stopping", "already_ended")}
    jobs = [
        {"job_id": job_id, "status": status, "durable": durable}
        for (job_id, status), durable in zip_longest(done.jobs, done.durable)
    ]
    content = {"matched": len(jobs), **counts, "dry_run": body.dry_run, "jobs": jobs}
    return Json(content, 202 if counts["stopping"] else 200, preference.headers)


@router.api_route("/v1/jobs/cancel", methods=["GET", "DELETE"], include_in_schema=False)
async def reject_cancel_as_job_id() -> Response:
    """Answer 405, so that this path is not taken for a job with the id `cancel`."""
    raise HTTPException(405)


@router.post("/v1/drain", status_code=202, responses=DRAIN_RESPONSES, dependencies=[NO_BODY])
async def drain(request: Request, query: Annotated[schemas.DrainQuery, Query()]) -> Response:
    """Accept no new jobs. Accepted jobs continue."""
    engine = engine_of(request)
    return Json((await engine.drain(deadline_s=query.deadline_s))._asdict(), 202)


@router.get("/v1/drain", responses=documented({200: answer("The state of the drain", schemas.Drained)}))
async def drained(request: Request) -> Response:
    """Return whether the server accepts new jobs, and how many it still has."""
    engine = engine_of(request)
    return Json((await engine.drained())._asdict())


@router.delete(
    "/v1/drain",
    responses=documented({200: answer("New jobs are accepted again", schemas.Drained)}, "draining", "invalid"),
    dependencies=[NO_BODY],
)
async def undrain(request: Request) -> Response:
    """Accept new jobs again. Refused with `draining` during a shutdown."""
    engine = engine_of(request)
    return Json((await engine.undrain())._asdict())


@router.post(
    "/v1/reload",
    responses=documented(
        {
            200: answer("The new code has the jobs", schemas.Reloaded, "Preference-Applied"),
            202: answer("It is still loaded", schemas.Reloaded, "Preference-Applied"),
        },
        *("reload_failed", "draining", "invalid"),
    ),
    dependencies=[NO_BODY],
)
async def reload(request: Request, preference: Preferred) -> Response:
    """Read API keys and secrets of webhooks again, open the audit log anew, and roll every pool over to the code as it
    is now, as at SIGHUP. Jobs that run go on with the code that they have; those that wait get the new. If the code of
    a pool does not load, all go on as they are. Waits until that is known, 10 s by default.
    """
    wait_s = RELOAD_WAIT_S if preference.wait_s is None else preference.wait_s
    for files in parts_of(request).server_files:
        await files.read_again()
    record = await engine_of(request).reload(wait_s=wait_s)
    return Json(_reloaded(request, record), 202 if record.state == "loading" else 200, preference.headers)


@router.get(
    "/v1/reload",
    responses=documented({200: answer("The latest reload", schemas.Reloaded, "Preference-Applied")}),
)
async def reloaded(request: Request, preference: Preferred) -> Response:
    """Return the latest reload. With `Prefer: wait=N`, wait until it is over."""
    record = await engine_of(request).reloaded(wait_s=preference.wait_s or 0.0)
    return Json(_reloaded(request, record), 200, preference.headers)


def _reloaded(request: Request, record: ReloadRecord) -> dict[str, Any]:
    not_read = tuple(text for files in parts_of(request).server_files for text in files.not_read())
    return record._replace(not_read=not_read)._asdict()


@router.post("/v1/shutdown", status_code=202, responses=DRAIN_RESPONSES, dependencies=[NO_BODY])
async def shut_down(request: Request, query: Annotated[schemas.ShutdownQuery, Query()]) -> Response:
    """Drain, end every job, then end the server. It exits with 0 and leaves no process behind."""
    engine = engine_of(request)
    state = await engine.shutdown(grace_s=query.grace_s, deadline_s=query.deadline_s, reason=query.reason)
    return Json(state._asdict(), 202)
