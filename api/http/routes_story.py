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

TOKEN_BYTES = 4 << 10
"""Of the end of a token: more than the characters that a story shows, however they are escaped."""
BROKEN_MAX = 3
"""Bytes at the beginning of that end that may be no JSON: the rest of an escape, or of a UTF-8 sequence."""

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
        async for event in _read(engine, record.job_id, -1, before - 1, story.BETWEEN_ATTEMPTS):
            yield event
    async for event in _read(engine, record.job_id, tail, last, story.TOLD_EVENTS):
        yield event


async def _read(
    engine: Engine, job_id: str, after: int, until: int, names: frozenset[str]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the events with these names: what is not told, and may be large, is not parsed."""
    if after >= until:
        return
    async with aclosing(engine.events(job_id, after, follow=False)) as batches:
        async for batch in batches:
            for id, name, data in batch:
                if id > until:
                    return
                if name in names:
                    yield {"event": name, "data": told_token(data) if name == "token" else json.loads(data)}


def told_token(data: bytes) -> dict[str, Any]:
    """Return a token, of a large one only its end: kills wait while it is parsed."""
    if len(data) <= TOKEN_BYTES:
        parsed: dict[str, Any] = json.loads(data)
        return parsed
    if data.startswith(b'{"base64":'):
        return {"base64": ""}
    if not data.startswith(b'{"text":"'):
        return {"text": data[-TOKEN_BYTES:-1].decode("utf-8", "replace") + "\n"}
    begin = max(len(b'{"text":"'), len(data) - TOKEN_BYTES)
    for start in range(begin, begin + BROKEN_MAX + 1):
        try:
            return {"text": json.loads(b'"%b"' % data[start:-2])}
        except ValueError:
            pass
    raise ValueError("a token that no worker has written")
