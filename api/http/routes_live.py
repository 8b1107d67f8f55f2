"""Routes for how the server is now: its workers each second, its jobs as they change, and tickets for both.

Runs in: api.
"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from killable.api.http import live_schemas, schemas
from killable.api.http.auth import caller_of, is_operator, tenant_of
from killable.api.http.dependencies import parts_of
from killable.api.http.event_ids import LastEventId, after_of
from killable.api.http.live_streams import LiveStream
from killable.api.http.responses import Json, answer, documented, events_answer
from killable.supervisor.models import JobEvents

router = APIRouter(tags=["live"], default_response_class=Json)


@router.get(
    "/v1/workers/stream",
    response_class=Response,
    responses=documented(
        {200: events_answer(live_schemas.of_events(live_schemas.Now))},
        "too_many_streams",
    ),
)  # fmt: skip
async def stream_workers(request: Request, query: Annotated[schemas.WorkerWatchQuery, Query()]) -> Response:
    """Stream the state of workers, pools, queue and server: `now` at once and each second. Each event is the whole
    state, and a slow reader gets the latest. `end` comes when the server ends. With `workers=false` it has no single
    worker, but what those of each pool use together.
    """
    return _stream(request, "workers", parts_of(request).engine.watch_workers(workers=query.workers))


@router.get(
    "/v1/jobs/stream",
    response_class=Response,
    responses=documented(
        {200: events_answer(live_schemas.of_events(live_schemas.JobChange))},
        "too_many_streams",
        "invalid",
    ),
)  # fmt: skip
async def stream_jobs(
    request: Request, query: Annotated[schemas.JobWatchQuery, Query()], last_event_id: LastEventId = ""
) -> Response:
    """Stream the jobs that match, as they change: `jobs` (the newest, and counts), then `job`, `gone` (it is no longer
    kept, or does not match any more) and `counts`; `end` when the server ends. After an id that is too old `jobs` comes
    again.
    """
    engine = parts_of(request).engine
    after = after_of(last_event_id, query.after)
    events = engine.watch_jobs(limit=query.limit, after=after, **schemas.wanted_by(dict(query)))
    return _stream(request, "jobs", events)


def _stream(request: Request, of: str, events: JobEvents) -> Response:
    parts, caller = parts_of(request), caller_of(request.scope)
    operator = is_operator(request.scope)
    parts.streams.check(operator=operator)

    def may_read() -> bool:
        return parts.keys is None or caller is None or parts.keys.admits(caller, time.time())

    return LiveStream(
        parts.engine, parts.streams, events, may_read, of=of, tenant=tenant_of(request), operator=operator
    )


@router.delete("/v1/workers/stream", include_in_schema=False)
@router.delete("/v1/jobs/stream", include_in_schema=False)
async def reject_stream_as_id() -> Response:
    """Answer 405, so that these paths are not taken for a worker or a job with the id `stream`."""
    raise HTTPException(405)


@router.get(
    "/v1/stream-tickets",
    responses=documented({200: answer("Where to read", live_schemas.StreamTickets, "Cache-Control")}),
)
async def issue_tickets(request: Request) -> Response:
    """Return the addresses of both streams, for clients that cannot send headers (EventSource). If the server has keys
    they contain a ticket, with which the streams are read as with the key of this request, for an hour.
    """
    tickets, caller = parts_of(request).tickets, caller_of(request.scope)
    ticket, expires_at = "", None
    if tickets is not None and caller is not None:
        ticket, expires_at = tickets.issue_live(caller, time.time())
    query = f"?ticket={ticket}" if ticket else ""
    urls = {"workers_url": f"/v1/workers/stream{query}", "jobs_url": f"/v1/jobs/stream{query}"}
    return Json(urls | {"expires_at": expires_at}, headers={"Cache-Control": "no-store"})
