"""Runs flows and reads streams over httpx, on asyncio. `transport` does the same, blocking.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

import anyio
import anyio.to_thread
import httpx
from httpx_sse import EventSource

from killable.api.client.errors import Unreachable
from killable.api.client.events import Event
from killable.api.client.file_calls import Download
from killable.api.client.file_source import PIECE_BYTES
from killable.api.client.httpx_client import open_httpx
from killable.api.client.retries import Flow, Pause, Step
from killable.api.client.server_answers import AnswerBody, Outcome, Server, closed
from killable.api.client.stream_resume import Reading
from killable.workers.errors import KillableError

T = TypeVar("T")


class AsyncTransport:
    """The connections to one server. Safe to share between the tasks of one event loop."""

    def __init__(self, server: Server, http: httpx.AsyncClient | None) -> None:
        """`http`: the caller's own httpx client, which `close` does not close."""
        self._server = server
        self._owns_http = http is None
        self._http = http or open_httpx(server, httpx.AsyncClient, httpx.AsyncHTTPTransport)

    async def close(self) -> None:
        if self._owns_http:
            await self._http.aclose()

    async def do(self, flow: Flow[T], undo: Flow[object] | None = None) -> T:
        """Run a flow and return its result. If it is cancelled, run `undo` before raising the CancelledError."""
        try:
            return await self._carry_out(flow)
        except (KillableError, GeneratorExit):  # GeneratorExit: a coroutine being closed must not await
            raise
        except BaseException:
            if undo is not None:
                await self.finish(undo)
            raise

    async def finish(self, flow: Flow[T]) -> T:
        """Run a flow to its end, however often the caller is cancelled meanwhile; then raise the CancelledError."""
        task = asyncio.create_task(self._carry_out(flow))
        interrupt: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):  # a cancelled anyio scope (Starlette's handlers) cancels every await
            while not task.done():
                try:
                    await asyncio.wait([task])
                except asyncio.CancelledError as error:
                    interrupt = error
        if interrupt is not None:
            task.exception()  # marks it as retrieved; the CancelledError takes precedence
            raise interrupt
        return task.result()

    async def events(self, reading: Reading) -> AsyncGenerator[Event, None]:
        """Yield a job's events up to the terminal one, over as many connections as needed."""
        while not reading.is_over:
            await asyncio.sleep(reading.pause_s)
            if self._http.is_closed:
                raise closed()
            with reading.reconnecting():
                async with self._http.stream(**reading.call.arguments(self._server)) as response:
                    reading.opened(response if response.is_success else await self._whole(response))
                    async with aclosing(EventSource(response).aiter_sse()) as stream:
                        async for sent in stream:
                            event = reading.taken(sent)
                            if event is not None:
                                yield event
                                if reading.is_over:
                                    return

    async def download(self, download: Download) -> None:
        """Write a file, over as many connections as needed. Raise OSError if it cannot be written."""
        while not download.is_over:
            await asyncio.sleep(download.pause_s)
            if self._http.is_closed:
                raise closed()
            with download.reconnecting():
                async with self._http.stream(**download.call.arguments(self._server)) as response:
                    download.opened(response if response.is_success else await self._whole(response))
                    async for piece in response.aiter_raw(PIECE_BYTES):
                        await anyio.to_thread.run_sync(download.taken, piece)

    async def _carry_out(self, flow: Flow[T]) -> T:
        outcome: Outcome | None = None
        try:
            while True:
                outcome = await self._take(flow.send(outcome))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _take(self, step: Step) -> Outcome | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        if self._http.is_closed:
            return closed()
        arguments = step.arguments(self._server)
        if step.file is not None:
            arguments["content"] = step.file.pieces_async()
        try:
            async with self._http.stream(**arguments) as response:
                return await self._whole(response)
        except Unreachable as error:
            return error
        except httpx.HTTPError as error:
            return self._server.unreachable(error)

    async def _whole(self, response: httpx.Response) -> httpx.Response:
        """Read an answer to its end. Raise Unreachable if it is too large, httpx.HTTPError."""
        body = AnswerBody(self._server, response)
        async for part in response.aiter_bytes():
            body.add(part)
        return body.answer()
