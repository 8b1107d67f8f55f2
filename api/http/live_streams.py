"""The streams of jobs and of workers as server-sent events. They end with the server, not with a job.

Runs in: api.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import chain

import anyio
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from killable.api.http.methods import IS_HEAD
from killable.api.http.open_streams import OpenStreams
from killable.api.http.problems import refused
from killable.api.http.sse import RETRY, OpenSse, encode
from killable.api.http.writes import in_writes
from killable.supervisor.engine import Engine
from killable.supervisor.models import JobEvents
from killable.workers.errors import Refused

KEY_GONE = b'event: end\ndata: {"reason":"unauthorized"}\n\n'


class LiveStream(OpenSse):
    """One reader, counted by the engine while it is there."""

    def __init__(
        self, engine: Engine, streams: OpenStreams, events: JobEvents,
        may_read: Callable[[], bool], *, of: str, tenant: str, operator: bool,
    ) -> None:  # fmt: skip
        """`may_read` says at each event whether its key still may. `of` is what the log calls it."""
        self._engine = engine
        self._events = events
        self._may_read = may_read
        self._of = of
        self._tenant = tenant
        self._operator = operator
        super().__init__(streams, self._pieces())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(IS_HEAD):
            await super().__call__({**scope, "method": "HEAD"}, receive, send)
            return
        try:
            await self._engine.reader_came(None, self._tenant, operator=self._operator)
        except Refused as error:
            await (await refused(Request(scope), error))(scope, receive, send)
            return
        try:
            await self.run(scope, receive, send, self._of)
        finally:
            with anyio.CancelScope(shield=True):  # the server cancels what is left when it stops
                await self._engine.reader_left(None, self._tenant)

    async def _pieces(self) -> AsyncGenerator[bytes | memoryview, None]:
        first = [RETRY]
        async with aclosing(self._events) as batches:
            async for batch in batches:
                if not self._may_read():
                    yield b"".join([*first, KEY_GONE])
                    return
                for write in in_writes(chain(first, encode(batch))):
                    yield write
                first = []
