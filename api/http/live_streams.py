"""The streams of jobs and of workers as server-sent events. They end with the server, not with a job.

Runs in: api.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from itertools import chain

from killable.api.http.open_streams import OpenStreams
from killable.api.http.sse import RETRY, CountedSse, encode
from killable.api.http.writes import in_writes
from killable.supervisor.engine import Engine
from killable.supervisor.models import JobEvents

KEY_GONE = b'event: end\ndata: {"reason":"unauthorized"}\n\n'


class LiveStream(CountedSse):
    """The events of one watch."""

    def __init__(
        self, engine: Engine, streams: OpenStreams, events: JobEvents,
        may_read: Callable[[], bool], *, of: str, tenant: str, operator: bool,
    ) -> None:  # fmt: skip
        """`may_read` says at each event whether its key still may."""
        self._events = events
        self._may_read = may_read
        super().__init__(engine, streams, self._pieces(), None, of=of, tenant=tenant, operator=operator)

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
