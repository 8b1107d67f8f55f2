"""A reader of the streams of jobs and of workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse

WAIT_S = 50.0
"""Not a bound that a test is about: what has not come by then never will."""


class Reader:
    """One open stream, and what has come of it."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], response: httpx.Response) -> None:
        self.response = response
        self._events = events
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.last_id = ""

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Return the name and the data of the next event."""
        event = None
        async with asyncio.timeout(WAIT_S):
            while event is None or not event.data:  # httpx-sse takes a ping for an event without data
                event = await anext(self._events)
        self.last_id = event.id or self.last_id
        self.seen.append((event.event, event.json()))
        return self.seen[-1]

    async def until(self, name: str, fits: Callable[[dict[str, Any]], bool] = lambda data: True) -> dict[str, Any]:
        """Return the data of the next event of this name that fits."""
        while True:
            came, data = await self.next()
            if came == name and fits(data):
                return data

    async def until_job(self, job_id: str, state: str) -> dict[str, Any]:
        return await self.until("job", lambda job: job["job_id"] == job_id and job["state"] == state)

    async def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """Return all events up to the end of the stream."""
        before = len(self.seen)
        while True:
            try:
                await self.next()
            except StopAsyncIteration:
                return self.seen[before:]


@asynccontextmanager
async def reading(
    client: httpx.AsyncClient, path: str, *, after: str = "", headers: dict[str, str] | None = None, **query: Any
) -> AsyncIterator[Reader]:
    """Read `/v1/jobs/stream` or `/v1/workers/stream`."""
    sent = dict(headers or {}) | ({"last-event-id": after} if after else {})
    async with aconnect_sse(client, "GET", path, params=query or None, headers=sent) as source:
        assert source.response.status_code == 200, await source.response.aread()
        yield Reader(source.aiter_sse(), source.response)
