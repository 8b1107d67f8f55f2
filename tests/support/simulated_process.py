"""A process that is part of a test's event loop: its tasks and timers are known, and end all at once, as by SIGKILL.

Runs in: the test process. What a task or timer of it begins belongs to it, too, but for what `apart` begins. Whoever
makes a loop for such processes calls `watch_tasks`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from support.virtual_loop import VirtualLoop

T = TypeVar("T")

_OWNER: ContextVar[SimulatedProcess | None] = ContextVar("_OWNER", default=None)
TURNS = 3
"""Turns of the loop until nothing is left that a callback, which was due when the process died, has begun."""


class ProcessDied(Exception):
    """The process has ended before its answer was there."""


class SimulatedProcess:
    """Ends what it has begun when it is killed; nothing of it is called any more."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._context = copy_context()
        self._context.run(_OWNER.set, self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.died: asyncio.Future[None] = loop.create_future()

    @property
    def is_dead(self) -> bool:
        return self.died.done()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self._loop.create_task(work, context=self._context)

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have the process do something, and return its answer. Raise ProcessDied, and what it raises."""
        if self.is_dead:
            work.close()
            raise ProcessDied
        task = self.begin(work)
        await asyncio.wait((task, self.died), return_when=asyncio.FIRST_COMPLETED)
        if self.is_dead:
            raise ProcessDied
        return task.result()

    def owns(self, task: asyncio.Task[Any]) -> bool:
        return task in self._tasks

    def note(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)

    def kill(self) -> None:
        """End it at once. What it has sent is on its way, and what it has told is told."""
        if not self.is_dead:
            self.died.set_result(None)
            self._end(TURNS)

    def _end(self, turns: int) -> None:
        for task in self._tasks:
            task.cancel()
        for timer in self._loop.timers():
            if timer._context.get(_OWNER) is self:  # type: ignore[attr-defined]
                timer.cancel()
        if turns:
            self._loop.call_soon(self._end, turns - 1, context=Context())


def owner() -> SimulatedProcess | None:
    """Return the process that what runs now belongs to."""
    return _OWNER.get()


def watch_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have each task of a loop noted by the process that has begun it."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, *, context: Context | None = None) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, context=context)
        owner = _OWNER.get() if context is None else context.get(_OWNER)
        if owner is not None:
            owner.note(task)
        return task

    loop.set_task_factory(make)


def apart(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begin what belongs to no process: a message on its way, or what another machine does."""
    return asyncio.get_running_loop().create_task(work, context=Context())
