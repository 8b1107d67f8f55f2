"""Which nodes operators have drained: also those that are not there now, and under earlier heads.

Runs in: supervisor, on the head. The journal keeps them, if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from killable.supervisor import clock as clocks
from killable.supervisor import event_loops
from killable.workers.named_tuples import NamedTuple

DRAINS_MAX = 1000
"""So many are remembered: of nodes that never come back none is ended."""

WriteDrain = Callable[[str, Mapping[str, Any] | None, Callable[[str], None]], None]
"""Writes the drain of a node down, or (None) that it has ended, and tells why it never will be on disk, or nothing."""


class Drained(NamedTuple):
    """What is remembered of one drain."""

    deadline_s: float | None
    """How long from now on what runs there may go on; None: for ever."""


class RememberedDrains:
    def __init__(self) -> None:
        self._drains: dict[str, Mapping[str, Any]] = {}
        """By node, the oldest first. When one is over is told by the clock on the wall: heads come and go."""
        self._write: WriteDrain = lambda node, members, answer: answer("")
        self._unwritten = 0
        self._written = asyncio.Event()
        """Set when all of it is on disk."""

    def take_over(self, drains: Mapping[str, Mapping[str, Any]], write: WriteDrain) -> None:
        """Go on with those of an earlier head, and write each change down."""
        self._drains = dict(drains)
        self._write = write

    def note(self, node: str, deadline_s: float | None) -> None:
        self._drains.pop(node, None)
        self._drains[node] = members = {"until": None if deadline_s is None else clocks.realtime() + deadline_s}
        self._put(node, members)
        if len(self._drains) > DRAINS_MAX:
            self.forget(next(iter(self._drains)))

    def forget(self, node: str) -> bool:
        """Return whether there was one."""
        if self._drains.pop(node, None) is None:
            return False
        self._put(node, None)
        return True

    def _put(self, node: str, members: Mapping[str, Any] | None) -> None:
        self._unwritten += 1
        self._written.clear()
        self._write(node, members, self._on_written)

    def _on_written(self, why: str) -> None:
        self._unwritten -= not why
        if not self._unwritten:
            self._written.set()

    async def until_written(self, within_s: float) -> bool:
        """Wait until all of it is on disk; return whether it is."""
        return not self._unwritten or await event_loops.wait_within(self._written, within_s)

    def of(self, node: str) -> Drained | None:
        """Return the drain of a node; None: it is not drained."""
        drain = self._drains.get(node)
        if drain is None:
            return None
        until = drain["until"]
        return Drained(None if until is None else max(0.0, until - clocks.realtime()))
