"""Helpers for an event loop: calls from other threads, waits with a limit, and blocking work in threads.

Runs in: supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from queue import Empty, SimpleQueue
from types import coroutine
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

QUEUE_THREADS_MAX = 4
"""Threads per loop for `in_bounded_threads`: more would take the interpreter lock from the loop."""
IN_ORDER_IDLE_S = 5.0
"""How long the thread of `in_order` stays without work: an idle program has no thread more."""


logger = logging.getLogger("killable.system")


class _LoopThreads:
    """The work of one loop that runs in threads. It keeps no result, nor the loop, alive longer than its thread."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        """The threads that a close waits for; changed only in the loop's own thread."""
        self.all_ended: asyncio.Event | None = None
        """Set when the last of them has ended; None while no close waits."""
        self.waiting: deque[Callable[[], None]] = deque()
        self.queue_threads = 0
        """Number of threads that take work from `waiting`."""
        self.lock = threading.Lock()
        """Guards `waiting`, `queue_threads` and `in_order`."""
        self.in_order: SimpleQueue[Callable[[], object] | None] | None = None
        """What the thread of `in_order` takes, while there is one; None ends it."""

    def note_end(self, thread: threading.Thread) -> None:
        if thread.ident is not None:  # else it was never started
            thread.join()  # it is about to end
        self.threads.discard(thread)
        if self.all_ended is not None and not self.threads:
            self.all_ended.set()
            self.all_ended = None


_loop_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopThreads] = WeakKeyDictionary()


def _threads_of(loop: asyncio.AbstractEventLoop) -> _LoopThreads:
    aside = _loop_threads.get(loop)
    if aside is None:
        aside = _loop_threads[loop] = _LoopThreads()
    return aside


def tell(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Run `act` in a loop, from any thread. Does nothing if the loop is closed: no caller waits for it then."""
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        pass


@coroutine
def turn() -> Generator[None, None, None]:
    """Let everything else in the loop that is ready run once, as `asyncio.sleep(0)` does."""
    yield


async def wait_within(event: asyncio.Event, at_most_s: float) -> bool:
    """Wait for an event; return whether it was set in time."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def in_thread(
    loop: asyncio.AbstractEventLoop, act: Callable[[], T], *, is_waited_for: bool = True
) -> asyncio.Future[T]:
    """Run `act` in a thread that ends with it: threads of the loop's own executor stay until the loop is closed.

    `is_waited_for`: a close of the supervisor waits for it (`threads_are_done`), even if the caller was cancelled.
    Raise RuntimeError if no thread can be started.
    """
    done: asyncio.Future[T] = loop.create_future()
    _start(loop, partial(_do, loop, act, done), is_waited_for=is_waited_for)
    return asyncio.shield(done)  # the caller may be cancelled: the work goes on


def in_bounded_threads(loop: asyncio.AbstractEventLoop, act: Callable[[], T]) -> asyncio.Future[T]:
    """Run `act` like `in_thread`, but at most AT_ONCE at a time: for work that any client may request."""
    done: asyncio.Future[T] = loop.create_future()
    aside = _threads_of(loop)
    with aside.lock:
        aside.waiting.append(partial(_do, loop, act, done))
        one_more = aside.queue_threads < QUEUE_THREADS_MAX
        aside.queue_threads += one_more
    if one_more:
        try:
            _start(loop, partial(_run_queued, aside), is_waited_for=True)
        except RuntimeError:
            with aside.lock:
                aside.queue_threads -= 1
                if not aside.queue_threads and aside.waiting:  # else another thread takes it, or has taken it
                    aside.waiting.pop()
                    raise
    return asyncio.shield(done)


def in_order(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Run `act` in the one thread that does such work in its order, and stays for IN_ORDER_IDLE_S after it.

    For short calls that the kernel may hold up. Unlike `in_thread` it mostly starts no thread: a start waits until the
    thread has a processor, some 10 ms on a busy machine. Raise RuntimeError if no thread can be started.
    """
    aside = _threads_of(loop)
    with aside.lock:
        work = aside.in_order
        if work is not None:
            work.put(act)
            return
        work = aside.in_order = SimpleQueue()
    try:
        _start(loop, partial(_run_in_order, aside, work), is_waited_for=True)
    except RuntimeError:
        aside.in_order = None
        raise
    work.put(act)


def _run_in_order(aside: _LoopThreads, work: SimpleQueue[Callable[[], object] | None]) -> None:
    while True:
        try:
            act = work.get(timeout=IN_ORDER_IDLE_S)
        except Empty:
            with aside.lock:
                if not work.empty():
                    continue  # it was given more in this moment
                if aside.in_order is work:
                    aside.in_order = None
                return
        if act is None:
            return
        try:
            act()
        except Exception:  # the next one has to be done all the same
            logger.exception("work_aside_failed")


def start_in_order(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Run `act` in a thread of its own, which the thread of `in_order` starts. A close of the supervisor waits for it.

    Nothing is done if no thread can be started then. Raise RuntimeError as `in_order`.
    """
    aside, thread = _threads_of(loop), _thread(loop, act)

    def start() -> None:
        try:
            thread.start()
        except RuntimeError:
            tell(loop, partial(aside.note_end, thread))

    in_order(loop, start)
    aside.threads.add(thread)


def _start(loop: asyncio.AbstractEventLoop, act: Callable[[], None], *, is_waited_for: bool) -> None:
    thread = _thread(loop, act)
    thread.start()
    if is_waited_for:
        _threads_of(loop).threads.add(thread)


def _thread(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> threading.Thread:
    aside = _threads_of(loop)

    def run() -> None:
        act()
        tell(loop, partial(aside.note_end, thread))

    thread = threading.Thread(target=run, name="killable-aside", daemon=True)
    return thread


def _do(loop: asyncio.AbstractEventLoop, act: Callable[[], T], done: asyncio.Future[T]) -> None:
    try:
        end = partial(done.set_result, act())
    except BaseException as error:
        end = partial(done.set_exception, error)
    tell(loop, end)


def _run_queued(aside: _LoopThreads) -> None:
    while True:
        with aside.lock:
            if not aside.waiting:
                aside.queue_threads -= 1
                return
            act = aside.waiting.popleft()
        act()


async def threads_are_done(at_most_s: float) -> None:
    """Wait for this loop's threads, but only so long: the kernel may hold one of them (a process in state D)."""
    aside = _threads_of(asyncio.get_running_loop())
    with aside.lock:
        work, aside.in_order = aside.in_order, None
    if work is not None:
        work.put(None)
    if aside.threads:
        aside.all_ended = aside.all_ended or asyncio.Event()  # two supervisors of one loop may close at once
        await wait_within(aside.all_ended, at_most_s)
