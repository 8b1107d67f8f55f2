"""An event loop from outside, what is waited for in it, and work that would hold it up.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

AT_ONCE = 4
"""Threads of a loop for what is done in turn: they take the interpreter from it."""


class _Aside:
    """What one loop has in threads. Nothing here keeps a result, or the loop, longer than its thread does."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        """That a close waits for; changed in the loop's own thread."""
        self.none_left: asyncio.Event | None = None
        """Somebody waits for that."""
        self.waiting: deque[Callable[[], None]] = deque()
        self.takers = 0
        """How many threads take what waits."""
        self.lock = threading.Lock()
        """Over what waits and who takes it."""

    def note_end(self, thread: threading.Thread) -> None:
        thread.join()  # that was its last word
        self.threads.discard(thread)
        if self.none_left is not None and not self.threads:
            self.none_left.set()


_asides: WeakKeyDictionary[asyncio.AbstractEventLoop, _Aside] = WeakKeyDictionary()


def _aside(loop: asyncio.AbstractEventLoop) -> _Aside:
    aside = _asides.get(loop)
    if aside is None:
        aside = _asides[loop] = _Aside()
    return aside


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

    `is_waited_for`: a close of the supervisor's waits for it (`threads_are_done`), also when who wanted it has gone.
    Raise RuntimeError when no thread can be started.
    """
    done: asyncio.Future[T] = loop.create_future()
    _start(loop, partial(_do, loop, act, done), is_waited_for=is_waited_for)
    return asyncio.shield(done)  # whoever waits for it may be cancelled: it goes on


def in_turn(loop: asyncio.AbstractEventLoop, act: Callable[[], T]) -> asyncio.Future[T]:
    """Do the same for what anybody may ask for, AT_ONCE at a time."""
    done: asyncio.Future[T] = loop.create_future()
    aside = _aside(loop)
    with aside.lock:
        aside.waiting.append(partial(_do, loop, act, done))
        one_more = aside.takers < AT_ONCE
        aside.takers += one_more
    if one_more:
        try:
            _start(loop, partial(_take_turns, aside), is_waited_for=True)
        except RuntimeError:
            with aside.lock:
                aside.takers -= 1
                if not aside.takers and aside.waiting:  # else one of those takes it, or has taken it
                    aside.waiting.pop()
                    raise
    return asyncio.shield(done)


def _start(loop: asyncio.AbstractEventLoop, act: Callable[[], None], *, is_waited_for: bool) -> None:
    aside = _aside(loop)

    def run() -> None:
        act()
        tell(loop, partial(aside.note_end, thread))

    thread = threading.Thread(target=run, name="killable-aside", daemon=True)
    thread.start()
    if is_waited_for:
        aside.threads.add(thread)


def _do(loop: asyncio.AbstractEventLoop, act: Callable[[], T], done: asyncio.Future[T]) -> None:
    try:
        end = partial(done.set_result, act())
    except BaseException as error:
        end = partial(done.set_exception, error)
    tell(loop, end)


def _take_turns(aside: _Aside) -> None:
    while True:
        with aside.lock:
            if not aside.waiting:
                aside.takers -= 1
                return
            act = aside.waiting.popleft()
        act()


async def threads_are_done(at_most_s: float) -> None:
    """Wait for what this loop has going on in threads; not for one that the kernel keeps (a process in state D)."""
    aside = _aside(asyncio.get_running_loop())
    if aside.threads:
        aside.none_left = asyncio.Event()
        await came(aside.none_left, at_most_s)
        aside.none_left = None
