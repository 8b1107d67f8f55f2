"""What comes out of a job: its stream, its output so far, its result, its last checkpoint.

Runs in: api.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from killable.api import schemas
from killable.api.answers import Json, answer, documented
from killable.api.methods import IS_HEAD
from killable.api.output import kind_of, nothing, pieces_of
from killable.api.parts import engine_of, parts_of
from killable.api.problems import fault, invalid
from killable.api.records import record_json
from killable.api.sse import open_stream
from killable.workers.errors import Refused

VALUE = {
    "description": "The value as JSON; bytes as they are",
    "content": {"application/json": {}, "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
TEXT = {"schema": {"type": "string"}}
EVENT = {
    "schema": {
        "type": "object",
        "description": "Each event",
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": {"type": "string", "examples": ["started", "token", "retrying", "completed"]},
            "data": {"type": "string", "description": "A line of JSON; in a marker, which has no name, plain text"},
            "retry": {"type": "integer"},
        },
        "required": ["data"],
    }
}

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], default_response_class=Json)


@router.get(
    "/stream",
    response_class=Response,
    responses=documented(
        {
            200: answer("Events", None, "Cache-Control", "X-Accel-Buffering", content={"text/event-stream": EVENT}),
            204: answer("The terminal event was seen already", None, "Cache-Control"),
        },
        "unknown_job",
        "invalid",
    ),
)
async def stream_job(
    request: Request,
    job_id: str,
    query: Annotated[schemas.StreamQuery, Query()],
    last_event_id: Annotated[
        str,
        Header(description="Resume after this event; wins over `after`", json_schema_extra={"pattern": "^[0-9]*$"}),
    ] = "",
) -> Response:
    """Stream a job's events from any point, to any number of readers."""
    parts = parts_of(request)
    record = await parts.engine.get(job_id)
    after = query.after
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdecimal()):
            raise invalid([fault("header", ["Last-Event-ID"], "must be an id of this stream, a whole number")])
        # More digits than any id has: int() of a very long text would block, and raise.
        after = int(last_event_id[:18])
    return open_stream(parts.engine, parts.settings, parts.streams, record, after=after, markers=query.markers)


@router.get(
    "/output",
    response_class=Response,
    responses=documented(
        {
            200: {
                "description": "Texts as UTF-8, bytes as they are, any other token as a line of JSON",
                "content": {"text/plain": TEXT, "application/octet-stream": {}},
            }
        },
        "unknown_job",
    ),
)
async def get_output(request: Request, job_id: str) -> Response:
    """Return the job's tokens so far, one after the other; also after a kill."""
    engine = engine_of(request)
    record = await engine.get(job_id)
    kind = await kind_of(engine, record)
    pieces = nothing() if request.scope.get(IS_HEAD) else pieces_of(engine, record)
    return StreamingResponse(pieces, media_type=kind)


@router.get(
    "/result",
    response_class=Response,
    responses=documented(
        {200: VALUE, 202: answer("Not ended yet", schemas.Job)},
        "unknown_job",
        "no_result",
        "invalid",
    ),
)
async def get_result(request: Request, job_id: str, query: Annotated[schemas.ResultQuery, Query()]) -> Response:
    """Return what the job returned, waiting for its end if asked to."""
    parts = parts_of(request)
    record = await parts.engine.wait(job_id, timeout_s=min(query.wait_s, schemas.WAIT_S_MAX))
    if not record.ended:
        return Json(record_json(record, parts.settings.result_inline_bytes_max), 202)
    if record.state != "completed":
        raise Refused(
            f"The job ended {record.state}: only a completed one has a result", code="no_result", record=record
        )
    return _value_answer(b"null" if record.result is None else record.result)


@router.get("/partial", response_class=Response, responses=documented({200: VALUE}, "unknown_job", "no_result"))
async def get_partial(request: Request, job_id: str) -> Response:
    """Return the job's last checkpoint, or what it returned in its grace."""
    engine = engine_of(request)
    record = await engine.get(job_id)
    if record.partial is None:
        raise Refused("The job has made no checkpoint", code="no_result", record=record)
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
