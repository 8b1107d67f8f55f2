"""A job's events as server-sent events (WHATWG HTML, section 9.2), at the pace of one reader.

Runs in: api.

    engine.events ──batches──► _pieces ──64 KiB at most──► EventSourceResponse ──► in_whole_events ──► server
         │                                               pings, times, disconnect ──┘                       ▲
         └──the job has ended, and 64 KiB have room for what is left──────────────────────────────────────┘

Batches go out as they come, joined: one write for what is ready together, no timer, no await per token. Event data are
JSON already and are passed on as they are.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import chain
from typing import Any

import anyio
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from killable.api.http.audited_requests import act_of
from killable.api.http.methods import IS_HEAD
from killable.api.http.open_streams import OpenStreams
from killable.api.http.problems import refused
from killable.api.http.writes import WRITE_BYTES, in_writes
from killable.supervisor.engine import Engine
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.models import TERMINAL_STATES, JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused
from killable.workers.named_tuples import NamedTuple

# A server that is told to stop would end its streams without their terminal events. Who ends the jobs ends the streams.
AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
# Its debug records have whole pieces in them: what a job says is not logged.
logging.getLogger("sse_starlette").setLevel(logging.INFO)

logger = logging.getLogger("killable.server")

RETRY = b"retry: 1000\n"
"""Stands in the first event: on its own some clients (httpx-sse) take it for an event without data."""
PING = b": ping\n\n"
PING_S = 10.0
"""Seconds between comment pings on a stream: below the idle timeouts of usual proxies (30 s and more)."""
SEND_TIMEOUT_S = 30.0
"""A stream's reader that takes less than WRITE_BYTES in this many seconds is disconnected."""
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
"""The second one has nginx pass on what comes, and not gather it first."""


class _Names(dict[str, bytes]):
    """Event names as bytes, made once."""

    def __missing__(self, name: str) -> bytes:
        self[name] = encoded = name.encode()
        return encoded


_names = _Names()


def encode(events: Sequence[JobEvent]) -> Iterator[bytes]:
    """Yield events as they stand on the wire. One that is large comes in three pieces: its data are not copied here."""
    for id, name, data in events:
        if len(data) > WRITE_BYTES:
            yield b"id: %d\nevent: %b\ndata: " % (id, _names[name])
            yield data
            yield b"\n\n"
        else:
            yield b"id: %d\nevent: %b\ndata: %b\n\n" % (id, _names[name], data)


def in_whole_events(send: Send, timeout_s: float) -> Send:
    """Return `send` by which no ping stands in the middle of an event, nor before the first message.

    It has the first and the last message wait no longer than `timeout_s`, as EventSourceResponse has the others. Raises
    TimeoutError.
    """
    lock = asyncio.Lock()
    end = b"\n\n"
    """Of what has gone out; anything else is the middle of an event."""

    async def send_whole(message: Message) -> None:
        nonlocal end
        body = message.get("body", b"")
        async with lock:
            if body == PING and end != b"\n\n":  # no part of an event is one: its last one ends in JSON
                return
            end = (end + body[-2:])[-2:]
            if message.get("more_body"):
                await send(message)
            else:
                async with asyncio.timeout(timeout_s):
                    await send(message)

    return send_whole


def _begun(send: Send) -> Send:
    """Return `send` for an answer whose first message is sent."""

    async def send_rest(message: Message) -> None:
        if message["type"] != "http.response.start":
            await send(message)

    return send_rest


def marker(state: str, error: dict[str, Any] | None) -> bytes:
    """Return the seed's last line for a recorded outcome."""
    if state == "completed":
        return b"data: [DONE]\n\n"
    if state == "cancelled":
        return b"data: [CANCELLED]\n\n"
    code, message = (error or {}).get("code", state), (error or {}).get("message", "")
    text = f"{code}: {message}" if state == "timed_out" else message or code
    # One line whatever the message has; a lone surrogate has no UTF-8.
    return b"data: [ERROR] %b\n\n" % " ".join(text.split()).encode("utf-8", "backslashreplace")


def open_stream(
    engine: Engine,
    streams: OpenStreams,
    record: JobRecord,
    *,
    after: int,
    markers: bool | None,
    watches: bool = False,
    tenant: str,
    operator: bool,
) -> Response:
    """Return the stream of a job from the event after `after`; 204 when its reader has seen the terminal event.

    `markers` None: as the job was submitted. `watches`: this reader's leaving does not end the job. 204 is what stops
    an EventSource from connecting again. The stream counts for the reader's `tenant`, and is refused (too_many_streams)
    when it is begun. Raise Refused: too_many_connections.
    """
    markers = record.markers if markers is None else markers
    after = min(after, record.events - 1)  # an id that was never given out cannot have been seen
    if not record.ended or after < record.events - 1:
        streams.check(operator=operator)
        is_held = record.ended and record.durable is False
        has_some = after < record.events - 1 and not is_held
        reader = Reader(record.job_id, after, markers, watches, tenant, operator, has_some)
        return EventStream(engine, streams, reader)
    if not markers:
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    return Response(RETRY + marker(record.state, record.error), headers=HEADERS, media_type=MEDIA_TYPE)


def _ping() -> ServerSentEvent:
    return ServerSentEvent(comment="ping", sep="\n")


class Reader(NamedTuple):
    """Who reads which events of which job."""

    job_id: str
    after: int
    markers: bool
    watches: bool
    tenant: str
    operator: bool
    has_some: bool
    """Whether there are events that may be told."""


class OpenSse(EventSourceResponse):
    """An open answer of server-sent events: pings, times and bounds."""

    def __init__(
        self, streams: OpenStreams, pieces: AsyncIterable[bytes | memoryview], headers: Mapping[str, str] | None = None
    ) -> None:
        self._streams = streams
        super().__init__(
            pieces,
            headers=headers,
            ping=streams.ping_s,
            ping_message_factory=_ping,
            send_timeout=streams.send_timeout_s,
        )
        self.headers["X-Content-Type-Options"] = "nosniff"
        del self.headers["Connection"]  # the server's to say; to a client that asked for it, it says `close`

    async def run(self, scope: Scope, receive: Receive, send: Send, job_ids: str) -> None:
        """Send it, until it ends or its reader leaves."""
        self._streams.open += 1
        try:
            await self.send_events(scope, receive, send)
        except* HTTPException:
            pass  # a body of the GET that did not come in time
        except* TimeoutError:
            # Returning without the closing message makes the server close the connection.
            logger.warning("reader_disconnected", extra={"job_id": job_ids, "after_s": self.send_timeout})
        finally:
            self._streams.open -= 1

    async def send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them as they come. Raise TimeoutError, HTTPException, or groups of these."""
        assert self.send_timeout is not None
        await EventSourceResponse.__call__(self, scope, receive, in_whole_events(send, self.send_timeout))


class CountedSse(OpenSse):
    """The answer to one reader, counted by the engine while it is there."""

    def __init__(
        self, engine: Engine, streams: OpenStreams, pieces: AsyncIterable[bytes | memoryview],
        job_id: str | None, *, of: str, tenant: str, operator: bool, watches: bool = False,
    ) -> None:  # fmt: skip
        """`of` is what the log calls it; the others are those of `reader_came`."""
        self._engine = engine
        self._job_id = job_id
        self._of = of
        self._tenant = tenant
        self._operator = operator
        self._watches = watches
        super().__init__(streams, pieces)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(IS_HEAD):
            # No reader: were it counted as one, its leaving could end the job.
            await super().__call__({**scope, "method": "HEAD"}, receive, send)
            return
        job_id, tenant, watches = self._job_id, self._tenant, self._watches
        try:
            await self._engine.reader_came(job_id, tenant, operator=self._operator, watches=watches)
        except Refused as error:  # here and not before: between a check and this, others may come
            await (await refused(Request(scope), error))(scope, receive, send)
            return
        try:
            await self.run(scope, receive, send, self._of)
        finally:
            with anyio.CancelScope(shield=True):  # the server cancels what is left when it stops
                if await self._engine.reader_left(job_id, tenant, watches=watches):
                    act_of(scope).event = "client_gone"


class EventStream(CountedSse):
    """The events of one job (`stop_when_client_leaves`)."""

    def __init__(self, engine: Engine, streams: OpenStreams, reader: Reader) -> None:
        self._reader = reader
        self._begins = RETRY
        super().__init__(
            engine, streams, self._pieces(), reader.job_id,
            of=reader.job_id, tenant=reader.tenant, operator=reader.operator, watches=reader.watches,
        )  # fmt: skip

    async def send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what is there at once, if it is one write, then the others as they come.

        To begin and end the tasks for pings, times and a reader who leaves takes as long as half of a submission, and
        some turns of the loop: a first token that is there waits for none of them.
        """
        if self._reader.has_some and (batch := await self._there()):
            async with asyncio.timeout(self.send_timeout):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                there = b"".join([RETRY, *encode(batch), *self._marker_behind(batch[-1])])
                await send({"type": "http.response.body", "body": there, "more_body": True})
                if batch[-1].name in TERMINAL_STATES:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
            self._reader = self._reader._replace(after=batch[-1].id)
            self._begins, send = b"", _begun(send)
        await super().send_events(scope, receive, send)

    async def _there(self) -> Sequence[JobEvent]:
        """Return the next events that are there; none if they are more than a write."""
        async with aclosing(self._engine.events(self._reader.job_id, self._reader.after, follow=False)) as batches:
            async for batch in batches:
                return batch if sum(len(event.data) for event in batch) <= WRITE_BYTES else ()
        return ()

    def _marker_behind(self, event: JobEvent) -> Iterator[bytes]:
        if self._reader.markers and event.name in TERMINAL_STATES:
            yield marker(event.name, json.loads(event.data).get("error"))

    async def _pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        first = [self._begins]
        try:
            async with aclosing(self._engine.events(self._reader.job_id, self._reader.after)) as batches:
                async for batch in batches:
                    for number, write in enumerate(in_writes(chain(first, encode(batch)))):
                        if number:  # of a large event: a socket that takes all does not wait by itself
                            await wakeup_turns().turn(self._reader.job_id)
                        yield write
                    first = []
                    for write in self._marker_behind(batch[-1]):
                        yield write
        except Refused:
            # The reader sees an end without a terminal event.
            logger.info("record_dropped", extra={"job_id": self._reader.job_id})
