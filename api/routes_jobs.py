"""The routes of jobs: submit, look, list, stream, result, cancel.

Runs in: api.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Body, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from killable.api import schemas
from killable.api.answers import CANCEL_WAIT_S, NO_BODY, EngineOf, Json, PreferWait, SettingsOf, documented
from killable.api.inputs import InputCheck
from killable.api.problems import fault, invalid
from killable.api.records import record_json, short_record_json
from killable.api.sse import open_stream
from killable.supervisor.engine import Engine
from killable.supervisor.job import JobRecord, JobType, Submission
from killable.workers.errors import Refused

VALUE = {
    "description": "The value as JSON; bytes as they are",
    "content": {"application/json": {}, "application/octet-stream": {}},
}

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], default_response_class=Json)


@router.post(
    "",
    status_code=202,
    responses=documented(
        {202: {"model": schemas.AcceptedJob, "description": "Accepted"}},
        "malformed",
        "unknown_job_type",
        "too_large",
        "invalid",
        "limit_over_cap",
        "queue_full",
        "draining",
    ),
)
async def submit_job(
    request: Request, body: Annotated[schemas.AnyJobRequest, Body()], engine: EngineOf, settings: SettingsOf
) -> Response:
    """Start a job. It runs whether or not anyone reads its stream."""
    checks: InputCheck = request.app.state.input_check
    markers = isinstance(body, schemas.OperationRequest)
    job_type = await _find_type(engine, body.operation if isinstance(body, schemas.OperationRequest) else body.type)
    submission = Submission(
        type=job_type.name,
        input=await checks.encode(job_type, body.input, () if markers else ("input",)),
        limits=body.limits_given(),
        priority=body.priority,
        tags=body.tags,
        stop_when_client_leaves=body.stop_when_client_leaves,
        markers=markers,
    )
    record = await engine.submit(submission)
    address = f"/v1/jobs/{record.job_id}"
    urls = {"stream_url": f"{address}/stream", "sse_url": f"{address}/stream"}
    return Json(record_json(record, settings.result_inline_bytes_max) | urls, 202, {"Location": address})


async def _find_type(engine: Engine, name: str) -> JobType:
    """Return the type of that name, else the one that has an operation of that name."""
    # Types with another codec than JSON are not for clients: nothing that came over HTTP is ever unpickled.
    types = [job_type for job_type in await engine.job_types() if job_type.codec == "json"]
    for job_type in types:
        if job_type.name == name:
            return job_type
    for job_type in types:
        if name in job_type.operations:
            return job_type
    known = sorted(job_type.name for job_type in types)
    raise Refused(f"There is no such job type; there are: {', '.join(known)}", code="unknown_job_type", known=known)


@router.get("", responses=documented({200: {"model": schemas.JobList}}, "invalid"))
async def list_jobs(query: Annotated[schemas.ListQuery, Query()], engine: EngineOf) -> Response:
    """List jobs, newest first. The cursor stays true while jobs come and go."""
    tag: tuple[str, str] | None = None
    if query.tag is not None:
        key, _, value = query.tag.partition(":")
        tag = (key, value)
    records, cursor = await engine.list(
        state=query.state, type=query.type, tag=tag, limit=query.limit, cursor=query.cursor
    )
    headers = {}
    if cursor is not None:
        following = query.model_dump(exclude_none=True) | {"cursor": cursor}
        headers["Link"] = f'</v1/jobs?{urlencode(following)}>; rel="next"'
    return Json({"jobs": [short_record_json(record) for record in records], "next_cursor": cursor}, headers=headers)


@router.get("/{job_id}", responses=documented({200: {"model": schemas.Job}}, "unknown_job"))
async def get_job(job_id: str, engine: EngineOf, settings: SettingsOf) -> Response:
    """Return the record of a job."""
    return Json(record_json(await engine.get(job_id), settings.result_inline_bytes_max))


@router.get(
    "/{job_id}/stream",
    response_class=Response,
    responses=documented(
        {
            200: {"description": "Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
            204: {"description": "The terminal event was seen already"},
        },
        "unknown_job",
        "invalid",
    ),
)
async def stream_job(
    job_id: str,
    query: Annotated[schemas.StreamQuery, Query()],
    engine: EngineOf,
    settings: SettingsOf,
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """Stream a job's events from any point, to any number of readers."""
    record = await engine.get(job_id)
    after = query.after
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdecimal()):
            raise invalid([fault("header", ["Last-Event-ID"], "must be an id of this stream, a whole number")])
        # More digits than any id has: int() of a very long text would block, and raise.
        after = int(last_event_id[:18])
    return open_stream(engine, settings, record, after=after, markers=query.markers)


@router.get(
    "/{job_id}/result",
    response_class=Response,
    responses=documented(
        {
            200: VALUE,
            202: {"model": schemas.Job, "description": "Not ended yet"},
        },
        "unknown_job",
        "no_result",
        "invalid",
    ),
)
async def get_result(
    job_id: str, query: Annotated[schemas.ResultQuery, Query()], engine: EngineOf, settings: SettingsOf
) -> Response:
    """Return what the job returned, waiting for its end if asked to."""
    record = await engine.wait(job_id, timeout_s=min(query.wait_s, schemas.WAIT_S_MAX))
    if not record.ended:
        return Json(record_json(record, settings.result_inline_bytes_max), 202)
    if record.state != "completed":
        raise Refused(f"The job ended {record.state}", code="no_result", record=record)
    return _value_answer(b"null" if record.result is None else record.result)


@router.get(
    "/{job_id}/partial", response_class=Response, responses=documented({200: VALUE}, "unknown_job", "no_result")
)
async def get_partial(job_id: str, engine: EngineOf) -> Response:
    """Return the job's last checkpoint, or what it returned in its grace."""
    record = await engine.get(job_id)
    if record.partial is None:
        raise Refused("The job has no checkpoint", code="no_result", record=record)
    return _value_answer(record.partial)


def _value_answer(payload: bytes) -> Response:
    raw = _bytes_value(payload)
    if raw is not None:
        return Response(raw, media_type="application/octet-stream")
    return Response(payload, media_type="application/json")


def _bytes_value(payload: bytes) -> bytes | None:
    """Return the bytes that a job returned, which travel as `{"base64": …}`; None for any other value."""
    start, end = b'{"base64":"', b'"}'
    if not (payload.startswith(start) and payload.endswith(end)):
        return None
    try:
        return base64.b64decode(memoryview(payload)[len(start) : -len(end)], validate=True)
    except binascii.Error:
        return None


CANCEL_RESPONSES = documented(
    {
        200: {"model": schemas.CancelAnswer, "description": "The job is dead, and all that it had started"},
        202: {"model": schemas.CancelAnswer, "description": "Still stopping; ask again to go on waiting"},
    },
    "unknown_job",
    "already_ended",
    "invalid",
)


@router.delete("/{job_id}", responses=CANCEL_RESPONSES, dependencies=[NO_BODY])
@router.post("/{job_id}/cancel", responses=CANCEL_RESPONSES, dependencies=[NO_BODY])
async def cancel_job(
    job_id: str, query: Annotated[schemas.CancelQuery, Query()], engine: EngineOf, wait_s: PreferWait
) -> Response:
    """Cancel a job; answer when its whole process tree is gone. Harmless to repeat.

    Waits at most `Prefer: wait=N` (10 s, capped at 60; `respond-async` is 0). An accepted cancel goes on when its
    caller leaves.
    """
    record = await engine.cancel(
        job_id, reason=query.reason, grace_s=query.grace_s, wait_s=CANCEL_WAIT_S if wait_s is None else wait_s
    )
    return _cancel_answer(record)


def _cancel_answer(record: JobRecord) -> Response:
    status = "cancelled" if record.state == "cancelled" else "stopping"
    body = {"job_id": record.job_id, "status": status, "certificate": record.certificate}
    return Json(body, 200 if status == "cancelled" else 202)
