"""Routes for what a job produces: its event stream, its output so far, its result, its last checkpoint.

Runs in: api.
"""

from __future__ import annotations

import base64
import string
from collections.abc import AsyncIterator, Iterable
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from killable.api.http import schemas
from killable.api.http.auth import TICKET, caller_of, is_operator, tenant_of
from killable.api.http.dependencies import engine_of, parts_of
from killable.api.http.event_ids import LastEventId, after_of
from killable.api.http.joined_output import as_attachment, media_type_of, nothing, pieces_of
from killable.api.http.live_schemas import event_stream
from killable.api.http.methods import IS_HEAD
from killable.api.http.prefer_wait import WAIT_S_MAX
from killable.api.http.record_json import record_json
from killable.api.http.responses import Json, answer, documented, events_answer
from killable.api.http.route_roles import CALLER
from killable.api.http.sse import open_stream
from killable.api.http.writes import WRITE_BYTES, cut, in_writes
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused

VALUE = {
    "description": "The value as JSON; bytes unchanged",
    "content": {
        "application/json": {"schema": {}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
TEXT = {"schema": {"type": "string"}}
EVENTS = event_stream(
    {"type": "string", "description": "One line of JSON; in a marker, plain text"},
    *("started", "token", "retrying", "completed"),
)

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], default_response_class=Json)


@router.get(
    "/stream",
    response_class=Response,
    responses=documented(
        {
            200: events_answer(EVENTS),
            204: answer("The terminal event was already received", None, "Cache-Control"),
        },
        "unknown_job",
        "too_many_streams",
        "invalid",
    ),
)
async def stream_job(
    request: Request,
    job_id: str,
    query: Annotated[schemas.StreamQuery, Query()],
    last_event_id: LastEventId = "",
) -> Response:
    """Stream a job's events from any point. Any number of clients may read at the same time."""
    parts = parts_of(request)
    # At once: the stream holds the terminal event back until it is on disk, and what came before need not wait for it.
    record = await parts.engine.get(job_id, at_once=True)
    after = after_of(last_event_id, query.after)
    if record.ended and after >= record.events - 1:
        record = await parts.engine.get(job_id)  # the answer tells that it has ended
    return open_stream(
        parts.engine,
        parts.streams,
        record,
        after=after,
        markers=query.markers,
        watches=_only_watches(request, record),
        tenant=tenant_of(request) if CALLER in request.scope else record.tenant,  # a ticket is its job's tenant's
        operator=is_operator(request.scope),
    )


def _only_watches(request: Request, record: JobRecord) -> bool:
    """Return whether this reader's leaving does not matter to a job with `stop_when_client_leaves`.

    It matters of those whose job it is: who submitted it, and whom they gave the ticket of their submission. Others who
    may read it could end it otherwise, by leaving before the first of those has come.
    """
    caller = caller_of(request.scope)
    if caller is not None:
        return caller.role == "read" or caller.name != record.tenant
    return bool(request.scope.get(TICKET) == "watcher")


@router.get(
    "/output",
    response_class=Response,
    responses=documented(
        {
            200: {
                "description": "Strings as UTF-8, bytes unchanged, any other token as a line of JSON",
                "content": {"text/plain": TEXT, "application/octet-stream": {}},
            }
        },
        "unknown_job",
    ),
)
async def get_output(request: Request, job_id: str) -> Response:
    """Return the job's tokens so far, joined; also after a kill."""
    engine = engine_of(request)
    record = await engine.get(job_id)
    kind = await media_type_of(engine, record)
    pieces = nothing() if request.scope.get(IS_HEAD) else pieces_of(engine, record)
    name = f"{job_id}.{'txt' if kind.startswith('text/') else 'bin'}"
    return StreamingResponse(pieces, media_type=kind, headers=as_attachment(name))


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
    """Return what the job returned. With `wait_s`, wait for its end first."""
    parts = parts_of(request)
    record = await parts.engine.wait(job_id, timeout_s=min(query.wait_s, WAIT_S_MAX))
    if not record.ended:
        return Json(record_json(record, parts.settings.result_inline_bytes_max), 202)
    if record.state != "completed":
        raise Refused(
            f"The job ended {record.state}: only a completed job has a result", code="no_result", record=record
        )
    return await _value_answer(request, record, "result", b"null" if record.result is None else record.result)


@router.get("/partial", response_class=Response, responses=documented({200: VALUE}, "unknown_job", "no_result"))
async def get_partial(request: Request, job_id: str) -> Response:
    """Return the job's last checkpoint, or what it returned during its grace period."""
    engine = engine_of(request)
    record = await engine.get(job_id)
    if record.partial is None:
        raise Refused("The job has no checkpoint", code="no_result", record=record)
    return await _value_answer(request, record, "partial", record.partial)


async def _value_answer(request: Request, record: JobRecord, what: str, payload: bytes) -> Response:
    """Answer in pieces, so that a slow reader keeps one piece in memory and not a copy of the whole value."""
    encoded = await encoded_bytes(record.job_id, payload)
    if encoded is None:
        size, pieces, kind, media_type = len(payload), in_writes([payload]), "json", "application/json"
    else:
        size = len(encoded) // 4 * 3 - bytes(encoded[-2:]).count(b"=")
        pieces = map(base64.b64decode, cut(encoded, WRITE_BYTES // 3 * 4))
        kind, media_type = "bin", "application/octet-stream"
    body = nothing() if request.scope.get(IS_HEAD) else _each(pieces)
    headers = as_attachment(f"{record.job_id}-{what}.{kind}")
    return StreamingResponse(body, media_type=media_type, headers=headers | {"Content-Length": str(size)})


_BEGIN, _END = b'{"base64":"', b'"}'
"""Around the bytes that a job returned, in base64."""
_BASE64 = (string.ascii_letters + string.digits + "+/").encode()


async def encoded_bytes(job_id: str, payload: bytes) -> memoryview | None:
    """Return the base64 of a value that is bytes; None: it is another value. A large one is looked at in turns."""
    encoded = memoryview(payload)[len(_BEGIN) : -len(_END)]
    is_framed = payload.startswith(_BEGIN) and payload.endswith(_END) and len(payload) >= len(_BEGIN + _END)
    if not is_framed or len(encoded) % 4:
        return None
    padding = len(tail := bytes(encoded[-2:])) - len(tail.rstrip(b"="))
    for number, piece in enumerate(cut(encoded[: len(encoded) - padding])):
        if number:
            await wakeup_turns().turn(job_id)
        if bytes(piece).translate(None, _BASE64):
            return None
    return encoded


async def _each(pieces: Iterable[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
    """Yield the same pieces: Starlette would run each step of a plain iterator in a thread."""
    for piece in pieces:
        yield piece
