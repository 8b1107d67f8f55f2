"""Tells clients when the list of tools has changed: while any of them listens, it is looked at each second.

Runs in: api.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mcp.server.subscriptions import InMemorySubscriptionBus, ServerEvent, ToolsListChanged

from killable.api.mcp.tools import tools_of
from killable.supervisor.engine import Engine

LOOK_S = 1.0
"""Seconds between two looks. Lists change when a pool is started again, or a node of a cluster joins."""


class ToolListWatch:
    """The SDK's bus of events, which has one while someone listens."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bus = InMemorySubscriptionBus()
        self._listeners = 0
        self._watching: asyncio.Task[None] | None = None

    async def publish(self, event: ServerEvent) -> None:
        """Tell all who listen."""
        await self._bus.publish(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Have a function called for each event, until what is returned is called."""
        unsubscribe = self._bus.subscribe(listener)
        self._listeners += 1
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        is_subscribed = True

        def leave() -> None:
            nonlocal is_subscribed
            if is_subscribed:
                is_subscribed = False
                unsubscribe()
                self._listeners -= 1
                if not self._listeners:
                    self.close()

        return leave

    def close(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        seen = await self._now()
        while True:
            await asyncio.sleep(LOOK_S)
            now = await self._now()
            if now != seen:
                seen = now
                await self.publish(ToolsListChanged())

    async def _now(self) -> Any:
        return tools_of(await self._engine.job_types(), await self._engine.pools())
