"""When a client is told of its call's progress: at once, then as often as a person can see, and the last of it always.

Runs in: api.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from killable.api.mcp.progress import CallProgress
from killable.supervisor.models import JobEvent

EVERY_S = 0.05
"""Seconds between two looks at what is new. A notification costs server and client a third of a millisecond."""

Report = Callable[[float, float | None, str], Awaitable[None]]


class PacedProgress:
    """Of one call. It tells in a task of its own: a client that reads slowly holds up neither job nor answer."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._progress = CallProgress()
        self._telling: asyncio.Task[None] | None = None
        self._is_over = asyncio.Event()

    def add(self, batch: Sequence[JobEvent]) -> None:
        """Take events. Raise what telling of earlier ones has raised."""
        self._progress.add(batch)
        if self._telling is not None and self._telling.done():
            self._telling.result()
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def finish(self) -> None:
        """Tell what is left, without a pause."""
        self._is_over.set()
        if self._telling is not None:
            await self._telling

    def close(self) -> None:
        """Tell nothing more."""
        if self._telling is not None and not self._telling.cancel() and not self._telling.cancelled():
            self._telling.exception()  # whoever closes without `finish` has another reason

    async def _tell(self) -> None:
        while notes := self._progress.take():
            for note in notes:
                await self._report(*note)
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._is_over.wait()
            except TimeoutError:
                pass
