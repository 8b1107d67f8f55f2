"""The route for a job's story: the text of `killable explain`, to be shown elsewhere.

Runs in: api.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from killable.api.explanation import story
from killable.api.http.dependencies import parts_of
from killable.api.http.input_display import shown_record
from killable.api.http.responses import Json, answer, documented
from killable.api.http.story_answer import ToldStory
from killable.supervisor.engine import Engine
from killable.supervisor.records import JobRecord

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], default_response_class=Json)


@router.get("/story", responses=documented({200: answer("The story", ToldStory)}, "unknown_job"))
async def tell_job(request: Request, job_id: str) -> Response:
    """Tell in sentences how a job ended, by which rule, and which setting would have changed it."""
    parts = parts_of(request)
    record = await parts.engine.get(job_id)
    shown = shown_record(request, record)
    events = [event async for event in _worth_telling(parts.engine, record)]
    return Json(story.members(shown, story.tell(shown, events, now=datetime.now(UTC))))


async def _worth_telling(engine: Engine, record: JobRecord) -> AsyncIterator[dict[str, Any]]:
    """Yield how earlier attempts ended, which stands before the first event of this one, and the last events."""
    last = record.events - 1
    tail = max(-1, last - story.LAST_EVENTS)
    if record.attempts > 1:
        before = min(record.first_id, tail + 1)
        async for id, event in _read(engine, record.job_id, -1, before - 1):
            if id < before and event["event"] in story.BETWEEN_ATTEMPTS:
                yield event
    async for _, event in _read(engine, record.job_id, tail, last):
        yield event


async def _read(engine: Engine, job_id: str, after: int, until: int) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    if after >= until:
        return
    async with aclosing(engine.events(job_id, after, follow=False)) as batches:
        async for batch in batches:
            for id, name, data in batch:
                if id > until:
                    return
                yield id, {"event": name, "data": json.loads(data)}
