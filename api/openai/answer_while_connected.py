"""Answers one OpenAI request by its jobs, for as long as its client is there: whole, or as a stream.

Runs in: api.

    jobs ──first tokens──► the answer begins: a failure before has a status ──► chunks, pings ──► [DONE], or an error
      ▲                                                                              │
      └──────────── cancelled as client_gone ◄──── the client has left ◄─────────────┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from killable.api.http.audited_requests import act_of
from killable.api.http.open_streams import OpenStreams
from killable.api.http.problems import problem, refused
from killable.api.http.sse import PING, OpenSse
from killable.api.http.writes import Piece, in_writes
from killable.api.openai.chat_choices import BegunAnew
from killable.api.openai.error_answers import error_of_job
from killable.api.openai.large_answers import whole_answer
from killable.supervisor.engine import Engine
from killable.supervisor.jobs.wakeup_turns import wakeup_turns
from killable.supervisor.models import JobEvent
from killable.supervisor.records import JobRecord
from killable.workers.errors import Refused
from killable.workers.named_tuples import NamedTuple

logger = logging.getLogger("killable.server")

T = TypeVar("T")
Batch = tuple[int, Sequence[JobEvent]]
Failure = Refused | tuple[str, dict[str, Any]]
QUEUE_MAX = 4
"""Batches of several jobs that wait for their reader: the logs have the others."""
BROKEN = {"code": "protocol", "message": "the job has said what is no piece of an answer", "retryable": False}
AGAIN = {"code": "worker_lost", "message": "the attempt that has begun this answer has failed", "retryable": True}


class Jobs(NamedTuple):
    """The jobs of one request, and whose they are."""

    ids: Sequence[str]
    first_ids: Sequence[int]
    """Of each, the id of the event with which its stream begins."""
    tenant: str
    watches: bool = False
    """Whether they go on when this client leaves."""


class Form(Protocol):
    """How events become an answer."""

    def failure(self, number: int) -> dict[str, Any] | None:
        """Return the error of a job that has ended without an answer; None: it has not."""
        ...

    def take(self, number: int, batch: Sequence[JobEvent]) -> None:
        """Take events for a whole answer. Raise ValueError."""
        ...

    def take_record(self, number: int, record: JobRecord) -> None:
        """Take the record of a job that has ended, whose events were taken."""
        ...

    def whole(self) -> Iterable[Piece]:
        """Return the whole answer; all jobs have completed. Raise ValueError, also as its pieces are asked for."""
        ...


class StreamedForm(Form, Protocol):
    """How events become a stream, too."""

    def stream(self, number: int, batch: Sequence[JobEvent]) -> Iterable[Piece]:
        """Yield what a job's events add to the stream. Raise ValueError for what no answer has."""
        ...

    def end(self) -> bytes:
        """Return the end of the stream; all jobs have completed."""
        ...

    def error(self, content: dict[str, Any]) -> bytes:
        """Return an error in the middle of the stream, after which nothing follows."""
        ...


class _Gone(Exception):
    """The client has left."""


class Answer(Response):
    """The answer to one request."""

    def __init__(
        self, engine: Engine, streams: OpenStreams, jobs: Jobs, form: Form, *, streamed: StreamedForm | None = None,
        headers: dict[str, str], begun: Sequence[Piece] = (),
    ) -> None:  # fmt: skip
        """`streamed`: the form, if it is to be streamed, as one stream of its tenant that was counted and is given back
        here; None: the answer comes whole. `begun`: what the stream begins with at once, and not with its first token.
        """
        self._engine = engine
        self._streams = streams
        self._jobs = jobs
        self._form = form
        self._streamed_form = streamed
        self._unbegun: Failure | None = None
        """Why there is no answer: what was refused, or the job that has failed before its first token, and how."""
        self._told = headers
        self._path = ""
        """The address that was asked: errors name its fields."""
        self._begun = begun
        self._is_begun = bool(begun)
        self._failure: dict[str, Any] | None = None
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._path = scope["path"]
        jobs, came = self._jobs, list[str]()
        gone: Refused | None = None
        try:
            for job_id in jobs.ids:
                try:
                    await self._engine.reader_came(job_id, jobs.tenant, watches=jobs.watches, counted=False)
                    came.append(job_id)
                except Refused as error:  # it has ended, and is forgotten; the others end as this reader leaves
                    gone = error
            if gone is not None:
                raise gone
            await (self._whole if self._streamed_form is None else self._streamed)(scope, receive, send)
            if isinstance(self._unbegun, Refused):
                raise self._unbegun
            if self._unbegun is not None:
                await self._failed(*self._unbegun, scope, receive, send)
        except Refused as error:
            await (await refused(Request(scope), error))(scope, receive, send)
        except _Gone:
            pass
        finally:
            with anyio.CancelScope(shield=True):  # the server cancels what is left when it stops
                if self._streamed_form is not None:
                    await self._engine.reader_left(None, jobs.tenant)
                for job_id in came:
                    if await self._engine.reader_left(job_id, jobs.tenant, watches=jobs.watches, counted=False):
                        act_of(scope).event = "client_gone"

    # ── whole ──

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._unbegun = await unless_gone(receive, self._first_failure())
        if self._unbegun is not None:
            return
        try:
            answer = await whole_answer(self._jobs.ids[0], self._form.whole(), self._told)
        except ValueError as error:
            self._unbegun = self._jobs.ids[0], _why(error)
            return
        await answer(scope, receive, send)

    async def _first_failure(self) -> Failure | None:
        """Take what the jobs have said as they end. Return why there is no answer, without a wait for the others."""
        taking = [asyncio.ensure_future(self._take(number)) for number in range(len(self._jobs.ids))]
        try:
            for taken in asyncio.as_completed(taking):
                if failure := await taken:
                    return failure
            return None
        finally:
            for each in taking:
                each.cancel()
            await asyncio.gather(*taking, return_exceptions=True)

    async def _take(self, number: int) -> Failure | None:
        """Take what a job has said once it has ended."""
        job_id = self._jobs.ids[number]
        try:
            record = await self._engine.wait(job_id)
            async with aclosing(self._engine.events(job_id, follow=False)) as batches:
                async for batch in batches:
                    self._form.take(number, batch)
        except Refused as error:
            return error
        except ValueError as error:
            return job_id, _why(error)
        self._form.take_record(number, record)
        failure = self._form.failure(number)
        return None if failure is None else (job_id, failure)

    async def _failed(self, job_id: str, failure: dict[str, Any], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the error of a job, as a problem: what stands around this turns it into OpenAI's."""
        facts = {name: fact for name, fact in failure.items() if name not in ("code", "message", "retryable")}
        facts.pop("traceback", None)
        answer = problem(failure["code"], failure["message"], members={**facts, "job_id": job_id}, headers=self._told)
        await answer(scope, receive, send)

    # ── streamed ──

    async def _streamed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream it. All is ready before the first token is: its status is held back until then."""
        start: Message | None = None

        async def sending(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                if message.get("body") == PING or self._unbegun is not None:
                    return
                await send(start)
                start = None
            await send(message)

        answer = OpenSse(self._streams, self._pieces(), headers=self._told)
        await answer.run(scope, receive, sending, " ".join(self._jobs.ids))

    @property
    def _in_pieces(self) -> StreamedForm:
        assert self._streamed_form is not None
        return self._streamed_form

    def _pieces_of(self, number: int, batch: Sequence[JobEvent]) -> Iterator[Piece]:
        """Yield what a job's events add to the stream; if its answer has failed, the error at last. One that has failed
        before there is any of it is left to `_unbegun`.
        """
        try:
            for piece in self._in_pieces.stream(number, batch):
                self._is_begun = True
                yield piece
            self._failure = self._form.failure(number)
        except BegunAnew:
            self._failure = AGAIN
        except ValueError:
            self._failure = BROKEN
        if self._failure is None:
            return
        job_id = self._jobs.ids[number]
        if self._is_begun:
            yield self._in_pieces.error(error_of_job(job_id, self._failure, self._path)[1])
        else:
            self._unbegun = job_id, self._failure

    async def _pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield the stream."""
        for part in in_writes(self._begun):
            yield part
        try:
            async with aclosing(_events_of(self._engine, self._jobs)) as source:
                async for number, batch in source:
                    for place, part in enumerate(in_writes(self._pieces_of(number, batch))):
                        if place:  # the end of a large answer: a socket that takes all does not wait by itself
                            await wakeup_turns().turn(self._jobs.ids[number])
                        yield part
                    if self._failure is not None:
                        return
        except Refused as error:
            logger.info("record_dropped", extra={"job_id": " ".join(self._jobs.ids)})
            if not self._is_begun:
                self._unbegun = error
        else:
            if self._is_begun:
                yield self._in_pieces.end()
            else:
                self._unbegun = Refused("the record of this job is no longer there", code="unknown_job")


def _why(error: ValueError) -> dict[str, Any]:
    return AGAIN if isinstance(error, BegunAnew) else BROKEN


async def unless_gone(receive: Receive, wanted: Awaitable[T]) -> T:
    """Return what is wanted. Raise _Gone if the client leaves first."""
    waiting = asyncio.ensure_future(wanted)
    leaving = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise _Gone
    finally:
        for each in (waiting, leaving):
            each.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events_of(engine: Engine, jobs: Jobs) -> AsyncGenerator[Batch, None]:
    """Yield the events of several jobs as they come, each with the job's number."""
    if len(jobs.ids) == 1:
        async with aclosing(engine.events(jobs.ids[0], jobs.first_ids[0] - 1)) as batches:
            async for batch in batches:
                yield 0, batch
        return
    found: asyncio.Queue[Batch | BaseException | None] = asyncio.Queue(QUEUE_MAX)

    async def follow(number: int) -> None:
        try:
            async with aclosing(engine.events(jobs.ids[number], jobs.first_ids[number] - 1)) as batches:
                async for batch in batches:
                    await found.put((number, batch))
            await found.put(None)
        except Refused as error:
            await found.put(error)

    following = [asyncio.ensure_future(follow(number)) for number in range(len(jobs.ids))]
    try:
        left = len(jobs.ids)
        while left:
            item = await found.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for each in following:
            each.cancel()
        await asyncio.gather(*following, return_exceptions=True)
