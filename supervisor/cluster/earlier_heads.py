"""Which heads had the journal before this one, and that this one is the next: its epoch is above theirs, and on disk.

Runs in: supervisor, on the head. Without a journal nothing is known of any.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from killable.supervisor import clock as clocks
from killable.supervisor import event_loops
from killable.supervisor.models import HeadLine

if TYPE_CHECKING:
    from killable.supervisor.pools.pool_protocols import HeadNotes

EPOCH_SHARE = 0.25
"""How long the epoch of a head may take to be on disk, of the lease: what its nodes run is to live until its hello."""

logger = logging.getLogger("killable.cluster")


class EarlierHeads:
    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._notes: HeadNotes | None = None
        self._is_noted = False
        """Whether this head is on disk."""
        self.epoch = 0
        """The highest of theirs; 0: none is known."""
        self.line = HeadLine()
        """With a journal its origin is this head if there was none before."""

    def take_over(self, notes: HeadNotes) -> None:
        self._notes, self.epoch = notes, notes.journal.epoch

    @property
    def written(self) -> int:
        """The number of the last transaction that is on disk, if this head is; else 0: it has written nothing."""
        return self._notes.journal.generation if self._notes is not None and self._is_noted else 0

    async def first_epoch(self, head: str) -> int:
        """Return a number above those of all heads that had this journal, by whatever clocks. Without a journal it is
        the time of day: above those of earlier heads, unless that was set back, which is noticed.
        """
        now, after = int(clocks.realtime() * 1000), self.epoch + 1
        if self._notes is None:
            return now
        self.line = self._notes.journal.line
        self.line = self.line._replace(origin=self.line.origin or head)
        if await self._is_written(max(now, after)):
            return max(now, after)
        # What cannot be written is at least no higher than what the next head takes. Nothing is written before it.
        self._notes.epoch(after, self._on_noted, is_owed=True)
        return after if self.epoch else now

    async def may_go_above(self, epoch: int) -> bool:
        """Return whether a head with a journal, which has not begun to work, may have an epoch above this one. That is
        of a head that was here before it, or that has its journal now. It is on disk then, unless that is full.
        """
        assert self._notes is not None
        return await self._is_written(epoch + 1) or not self._notes.journal.is_replaced

    async def _is_written(self, epoch: int) -> bool:
        """Have the journal keep an epoch; return whether that is on disk."""
        assert self._notes is not None
        answered = asyncio.Event()
        whys = ["the write does not end"]

        def answer(why: str) -> None:
            whys[:] = [why] if why else []
            self._on_noted(why)
            answered.set()

        self._notes.epoch(epoch, answer)
        await event_loops.wait_within(answered, EPOCH_SHARE * self._lease_s)
        if whys:
            logger.error("epoch_not_written", extra={"detail": whys[0]})
        return not whys

    def _on_noted(self, why: str) -> None:
        self._is_noted = self._is_noted or not why
