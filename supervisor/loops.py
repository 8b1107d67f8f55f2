"""An event loop from outside, what is waited for in it, and work that would hold it up.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

AT_ONCE = 4
"""Threads for what is only looked at: they take the interpreter from the loop in turns."""

_under_way: dict[threading.Thread, asyncio.Future[None]] = {}
"""What a close waits for, of all loops: each changes it in its own thread. No results: some have descriptors, and
nobody may want one any more.
"""


def tell(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Have something done in a loop, from any thread; not when it is closed, for then nobody waits any more."""
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        pass


async def came(event: asyncio.Event, at_most_s: float) -> bool:
    """Wait for an event; tell whether it came in time."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def gathered(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what they return, in order, AT_ONCE at a time."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(work: Coroutine[Any, Any, T]) -> T:
        async with room:
            return await work

    return await asyncio.gather(*map(one, works))


def in_thread(
    loop: asyncio.AbstractEventLoop, act: Callable[[], T], *, is_waited_for: bool = True
) -> asyncio.Future[T]:
    """Do something in a thread that ends with it: those of the loop's own executor stay until the loop is closed.

    `is_waited_for`: a close of the supervisor's waits for it (`threads_are_done`), also when who wanted it has gone.
    Raise RuntimeError when no thread can be started.
    """
    done: asyncio.Future[T] = loop.create_future()
    over: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            end = partial(done.set_result, act())
        except BaseException as error:
            end = partial(done.set_exception, error)
        tell(loop, end)
        tell(loop, partial(over.set_result, None))

    thread = threading.Thread(target=run, name="killable-aside", daemon=True)
    thread.start()
    if is_waited_for:
        for ended in [each for each, its in tuple(_under_way.items()) if its.done() and not each.is_alive()]:
            _under_way.pop(ended, None)
        _under_way[thread] = over
    return asyncio.shield(done)  # whoever waits for it may be cancelled: it goes on


async def threads_are_done(at_most_s: float) -> None:
    """Wait for what this loop has going on in threads; not for one that the kernel keeps (a process in state D)."""
    loop = asyncio.get_running_loop()
    mine = {each: over for each, over in tuple(_under_way.items()) if over.get_loop() is loop}
    if mine:
        await asyncio.wait(mine.values(), timeout=at_most_s)
    for thread, over in mine.items():
        _under_way.pop(thread, None)
        if over.done():
            thread.join()  # that was its last word
