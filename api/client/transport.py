"""Runs flows and reads streams over httpx, blocking. `async_transport` does the same on asyncio.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TypeVar

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


class Transport:
    """The connections to one server. Threads may share it."""

    def __init__(self, server: Server, http: httpx.Client | None) -> None:
        """`http`: the caller's own httpx client, which `close` does not close."""
        self._server = server
        self._owns_http = http is None
        self._http = http or open_httpx(server, httpx.Client, httpx.HTTPTransport)

    def close(self) -> None:
        if self._owns_http:
            self._http.close()

    def do(self, flow: Flow[T], undo: Flow[object] | None = None) -> T:
        """Run a flow and return its result. If it is interrupted (Ctrl-C), run `undo` before raising the interrupt."""
        try:
            return self._carry_out(flow)
        except KillableError:
            raise
        except BaseException:
            if undo is not None:
                self._carry_out(undo)
            raise

    def events(self, reading: Reading) -> Generator[Event, None, None]:
        """Yield a job's events up to the terminal one, over as many connections as needed."""
        while not reading.is_over:
            time.sleep(reading.pause_s)
            if self._http.is_closed:
                raise closed()
            with reading.reconnecting(), self._http.stream(**reading.call.arguments(self._server)) as response:
                reading.opened(response if response.is_success else self._whole(response))
                for sent in EventSource(response).iter_sse():
                    event = reading.taken(sent)
                    if event is not None:
                        yield event
                        if reading.is_over:
                            return

    def download(self, download: Download) -> None:
        """Write a file, over as many connections as needed. Raise OSError if it cannot be written."""
        while not download.is_over:
            time.sleep(download.pause_s)
            if self._http.is_closed:
                raise closed()
            with download.reconnecting(), self._http.stream(**download.call.arguments(self._server)) as response:
                download.opened(response if response.is_success else self._whole(response))
                for piece in response.iter_raw(PIECE_BYTES):
                    download.taken(piece)

    def _carry_out(self, flow: Flow[T]) -> T:
        outcome: Outcome | None = None
        try:
            while True:
                outcome = self._take(flow.send(outcome))
        except StopIteration as end:
            result: T = end.value
            return result

    def _take(self, step: Step) -> Outcome | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        if self._http.is_closed:
            return closed()
        arguments = step.arguments(self._server)
        if step.file is not None:
            arguments["content"] = step.file.pieces()
        try:
            with self._http.stream(**arguments) as response:
                return self._whole(response)
        except Unreachable as error:
            return error
        except httpx.HTTPError as error:
            return self._server.unreachable(error)

    def _whole(self, response: httpx.Response) -> httpx.Response:
        """Read an answer to its end. Raise Unreachable if it is too large, httpx.HTTPError."""
        body = AnswerBody(self._server, response)
        for part in response.iter_bytes():
            body.add(part)
        return body.answer()
