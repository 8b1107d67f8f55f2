"""Routes for jobs: submit, get, list, cancel.

Runs in: api.
"""

from __future__ import annotations

import hashlib
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Body, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from killable.api.http import schemas
from killable.api.http.auth import is_operator, key_name_of, tenant_of
from killable.api.http.bodies import LargeBody, large_body_of
from killable.api.http.cancel_wait import cancel_wait_s
from killable.api.http.dependencies import engine_of, parts_of
from killable.api.http.input_display import shown_record
from killable.api.http.input_files import input_files
from killable.api.http.prefer_wait import Preference, Preferred
from killable.api.http.record_json import record_json
from killable.api.http.responses import (
    BODY_CODES,
    LINKS_TO_JOB,
    NO_BODY,
    Json,
    answer,
    correlation_id_of,
    documented,
    trace_of,
)
from killable.api.http.stream_tickets import Tickets
from killable.api.http.webhooks import callback_url_of
from killable.supervisor.engine import Engine
from killable.supervisor.jobs.summary import summary_of
from killable.supervisor.models import JobType, Submission
from killable.supervisor.pools.start_failures import error_line
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused

SUBMISSION_ANSWER_HEADERS = (
    *("Location", "X-Correlation-Id", "Idempotent-Replayed", "Preference-Applied", "RateLimit", "RateLimit-Policy"),
)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], default_response_class=Json)


@router.post(
    "",
    status_code=202,
    responses=documented(
        {
            200: answer("Ended within `Prefer: wait=N`", schemas.AcceptedJob, *SUBMISSION_ANSWER_HEADERS),
            202: answer("Accepted", schemas.AcceptedJob, *SUBMISSION_ANSWER_HEADERS, links=LINKS_TO_JOB),
        },
        *BODY_CODES,
        *("unknown_job_type", "limit_over_cap", "idempotency_conflict", "input.invalid", "busy"),
        *("priority_over_max", "tenant_queue_full", "too_many_submissions"),
        *("queue_full", "draining", "deadline_unmeetable", "journal_failed", "unknown_file", "files_off"),
    ),
)
async def submit_job(
    request: Request,
    body: Annotated[schemas.AnyJobRequest, Body()],
    headers: Annotated[schemas.SubmissionHeaders, Header()],
) -> Response:
    """Start a job. It runs whether or not a client reads its stream.

    `Prefer: wait=N` delays the answer until the job has ended, for at most N seconds (60 at most).
    """
    parts = parts_of(request)
    engine = parts.engine
    preference = Preference.of(headers.prefer)
    markers = isinstance(body, schemas.OperationRequest)
    job_type = await _find_type(engine, body.operation if isinstance(body, schemas.OperationRequest) else body.type)
    tenant, large = tenant_of(request), large_body_of(request)
    prefix = () if markers else ("input",)
    payload = await parts.input_check.encode(job_type, large.input if large else body.input, prefix, tenant)
    given_url = None if isinstance(body, schemas.OperationRequest) else body.callback_url
    submission = Submission(
        type=job_type.name,
        input=payload,
        files=input_files(request, job_type, payload),
        limits=body.limits_given(),
        priority=body.priority,
        tags=body.tags,
        nodes={} if isinstance(body, schemas.OperationRequest) else body.nodes,
        tenant=tenant,
        operator=is_operator(request.scope),
        within_s=headers.x_request_timeout,
        stop_when_client_leaves=body.stop_when_client_leaves,
        markers=markers,
        idempotency_key=headers.idempotency_key or "",
        body_digest=await _digest(request, large) if headers.idempotency_key else "",
        correlation_id=correlation_id_of(request),
        **trace_of(request),
        callback_url=callback_url_of(parts.webhooks, given_url, tenant),
    )
    record = await engine.submit(submission, counted=True)
    answered = preference.headers | {"X-Correlation-Id": record.correlation_id}
    urls = _stream_urls(parts.tickets, record)
    if record.replayed:
        answered["Idempotent-Replayed"] = "true"
    status = 202
    if preference.wait_s:
        record = await _ended(engine, record, preference.wait_s)
        status = 200 if record.ended else 202
    address = f"/v1/jobs/{record.job_id}"
    content = record_json(record, parts.settings.result_inline_bytes_max) | urls
    return Json(content, status, answered | {"Location": address})


async def _ended(engine: Engine, record: JobRecord, wait_s: float) -> JobRecord:
    """Wait for a job's end. Of a job that is no longer kept (a repeated key), return the first answer again."""
    try:
        return await engine.wait(record.job_id, timeout_s=wait_s)
    except Refused:
        if not record.replayed:
            raise
        return record


async def _digest(request: Request, large: LargeBody | None) -> str:
    return large.digest if large else hashlib.sha256(await request.body()).hexdigest()


def _stream_urls(tickets: Tickets | None, record: JobRecord) -> dict[str, str]:
    """Return the stream's URL under both member names. With API keys, it contains the stream's ticket."""
    url = f"/v1/jobs/{record.job_id}/stream"
    if tickets:
        url += f"?ticket={tickets.issue(record.job_id, 'watcher' if record.replayed else 'client')}"
    return {"stream_url": url, "sse_url": url}


async def _find_type(engine: Engine, name: str) -> JobType:
    """Return the type with this name, else the one with this operation. Raise Refused `unknown_job_type`."""
    # Types with another codec than JSON are not for clients: nothing received over HTTP is ever unpickled.
    every = await engine.job_types()
    types = [job_type for job_type in every if job_type.codec == "json"]
    for job_type in types:
        if job_type.name == name:
            return job_type
    for job_type in types:
        if name in job_type.operations:
            return job_type
    known = sorted(job_type.name for job_type in types)
    text = f"There is no such job type; there are: {', '.join(known)}"
    told = {job_type.pool for job_type in every}
    for pool in await engine.pools():
        if pool.name not in told:  # it is broken, or no node has it yet
            text += f"; those of pool {pool.name} are not known: {error_line(pool.detail)}"
    raise Refused(text, code="unknown_job_type", known=known)


@router.get(
    "",
    responses=documented({200: answer("One page", schemas.JobList, "Link")}, "invalid"),
)
async def list_jobs(request: Request, query: Annotated[schemas.ListQuery, Query()]) -> Response:
    """List jobs, newest first. A cursor stays valid while jobs are added and removed."""
    engine = engine_of(request)
    wanted = schemas.wanted_by(dict(query))
    records, cursor = await engine.list(limit=query.limit, cursor=query.cursor, **wanted)
    counts = await engine.count(**wanted)
    headers = {}
    if cursor is not None:
        following = query.model_dump(exclude_none=True) | {"cursor": cursor}
        headers["Link"] = f'</v1/jobs?{urlencode(following)}>; rel="next"'
    jobs = [summary_of(record) for record in records]
    return Json({"jobs": jobs, "next_cursor": cursor, **counts._asdict()}, headers=headers)


@router.get(
    "/{job_id}", responses=documented({200: answer("The record", schemas.Job, "Preference-Applied")}, "unknown_job")
)
async def get_job(request: Request, job_id: str, preference: Preferred) -> Response:
    """Return the record of a job. With `Prefer: wait=N`, wait until it has ended, for at most N seconds (60 at most).

    A job that has not ended by then is answered as it is.
    """
    engine = engine_of(request)
    record = await (engine.wait(job_id, timeout_s=preference.wait_s) if preference.wait_s else engine.get(job_id))
    return Json(shown_record(request, record), headers=preference.headers)


CANCEL_RESPONSES = documented(
    {
        200: answer("The job and all processes that it started are dead", schemas.CancelAnswer, "Preference-Applied"),
        202: answer("Still stopping; repeat the request to wait longer", schemas.CancelAnswer, "Preference-Applied"),
    },
    "unknown_job",
    "already_ended",
    "invalid",
)


@router.delete("/{job_id}", responses=CANCEL_RESPONSES, dependencies=[NO_BODY])
@router.post("/{job_id}/cancel", responses=CANCEL_RESPONSES, dependencies=[NO_BODY], operation_id="cancel_job_by_post")
async def cancel_job(
    request: Request, job_id: str, query: Annotated[schemas.CancelQuery, Query()], preference: Preferred
) -> Response:
    """Cancel a job and answer when its whole process tree is gone. The request may be repeated.

    `Prefer: wait=N` is the longest wait, in seconds: default 10, at most 60; `respond-async` is 0. An accepted cancel
    continues if the client disconnects.
    """
    engine = engine_of(request)
    record = await engine.cancel(
        job_id,
        reason=query.reason,
        grace_s=query.grace_s,
        wait_s=cancel_wait_s(preference),
        key=key_name_of(request),
    )
    return _cancel_answer(record, preference.headers)


def _cancel_answer(record: JobRecord, headers: dict[str, str]) -> Response:
    status = "cancelled" if record.state == "cancelled" else "stopping"
    body = {
        "job_id": record.job_id,
        "status": status,
        "certificate": record.certificate,
        "durable": record.durable,
    }
    return Json(body, 200 if status == "cancelled" else 202, headers)
