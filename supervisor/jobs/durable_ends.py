"""With a journal, clients are told of a job's end once it is on disk: what they see and wait for until then.

Runs in: supervisor. A kill never waits for this; only the word of it may.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from killable.supervisor.clock import Clock
from killable.supervisor.jobs.job import Job
from killable.supervisor.models import JobEvent

TELL_S = 3.0
"""How long after a job's end, in seconds, clients wait for it to be on disk. Then they are told of it all the same, and
that it is not.
"""
READ_S = 0.25
"""The same for who reads a record or a list, and did not wait for an end: far longer than a commit takes, and not as
long as a disk that hangs.
"""


class Disk(Protocol):
    """A journal, as far as ends wait for it."""

    @property
    def trouble(self) -> str:
        """Return why it cannot write now; empty if it can."""
        ...

    @property
    def is_over(self) -> bool:
        """Return whether it will not write any more."""
        ...


class DurableEnds:
    """Of one supervisor. Without a journal `disk` is None, and nobody waits."""

    def __init__(self, clock: Clock, disk: Disk | None) -> None:
        self._clock = clock
        self._disk = disk

    async def until_told(self, job: Job) -> None:
        """Wait until the record may tell of a job's end: at most until READ_S after it. Return at once while the
        journal fails, or without an end.
        """
        if self._disk is not None and not self._disk.trouble and job.ended is not None:
            await self.until_durable(job, job.ended + READ_S)

    async def until_durable(self, job: Job, give_up: float | None = None) -> None:
        """Wait until the end of a job is on disk: at most until TELL_S after it, and until `give_up`."""
        if job.durable is not False or self._disk is None or job.ended is None:
            return
        due = job.ended + TELL_S if give_up is None else min(give_up, job.ended + TELL_S)
        try:
            async with asyncio.timeout(max(0.0, due - self._clock.now())):
                while job.durable is False and not self._disk.is_over:
                    await job.end_changed()
        except TimeoutError:
            pass


def visible(job: Job, batch: list[JobEvent]) -> list[JobEvent]:
    """Return those events that clients may see before the end is on disk; all if it is, or without a journal."""
    if job.durable is False and batch and batch[-1].id == len(job.log) - 1:
        batch = batch[:-1]
    if job.shown is not None and not job.durable and batch:
        batch = batch[: max(0, job.shown - batch[0].id)]
    return batch


def undurable_end(job: Job, id: int) -> JobEvent:
    """Return the terminal event as clients see it whose end is not on disk: with a mark, and as the next event of their
    stream. What is before it and not on disk either is left out: the next server may have other events by these ids.
    """
    (terminal,) = job.log.read(len(job.log) - 2, 1)
    return JobEvent(id, terminal.name, terminal.data[:-1] + b',"durable":false}')


def on_end_written(job: Job, why: str) -> None:
    """Note what the journal says of a job's end: it is on disk, or why it is not."""
    job.durable = not why
    job.wake()
