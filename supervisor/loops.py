"""An event loop from outside, what is waited for in it, and work that would hold it up.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

_under_way: set[asyncio.Future[Any]] = set()


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


def in_thread(
    loop: asyncio.AbstractEventLoop, act: Callable[[], T], *, is_waited_for: bool = True
) -> asyncio.Future[T]:
    """Do something in a thread that ends with it: those of the loop's own executor stay until the loop is closed.

    `is_waited_for`: a close of the supervisor's waits for it (`threads_are_done`). Raise RuntimeError when no thread
    can be started.
    """
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = act()
        except BaseException as error:
            tell(loop, partial(settle, threading.current_thread(), partial(done.set_exception, error)))
        else:
            tell(loop, partial(settle, threading.current_thread(), partial(done.set_result, result)))

    def settle(thread: threading.Thread, end: Callable[[], None]) -> None:
        thread.join()  # that was its last word
        if not done.done():  # else who wanted it has gone
            end()

    if is_waited_for:
        _under_way.add(done)
        done.add_done_callback(_under_way.discard)
    try:
        threading.Thread(target=run, name="killable-aside", daemon=True).start()
    except RuntimeError:
        done.cancel()
        raise
    return done


async def threads_are_done() -> None:
    """Wait for what this loop has going on in threads."""
    loop = asyncio.get_running_loop()
    mine = [each for each in _under_way if each.get_loop() is loop]
    if mine:
        await asyncio.wait(mine)
