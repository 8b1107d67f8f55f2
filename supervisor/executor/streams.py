"""Streams of what a task yields, read while it runs by a waiting thread or by a coroutine.

Runs in: supervisor (its thread feeds them) | the program (reads them). Leaving a stream stops its job.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from killable.supervisor import event_loops
from killable.supervisor.clock import monotonic
from killable.supervisor.executor import ctrl_c
from killable.supervisor.executor.futures import FutureOwner, JobFuture
from killable.supervisor.executor.task_results import UnpickleFailed, read

if TYPE_CHECKING:
    from killable.supervisor.jobs.job import Job
    from killable.workers.errors import JobError

T = TypeVar("T")

EVENTS_PER_READ = 4096
"""Limit of one read, so that a fast job does not keep the supervisor's thread from the others."""
TURN_S = 0.005
"""Time that a coroutine may read items without a pause: behind a fast job the event loop would never get a turn, and
the reader would never hear that it was cancelled.
"""


class StreamFuture(JobFuture[Any], Generic[T]):
    """The future of a streaming task. It collects the yielded items; `on_changed` runs in the supervisor's thread."""

    def __init__(self, owner: FutureOwner) -> None:
        super().__init__(owner)
        self.items: deque[bytes] = deque()
        self._read = -1
        self._waiting = threading.Condition()
        self._take_lock = threading.RLock()  # reentrant: code that unpickles an item may take the next one
        self._broken: JobError | None = None
        """The error raised for an item that could not be unpickled; later items are not read."""

    def is_wanted(self) -> bool:
        """Return whether a thread is left for which the exit of the program waits: it may read the stream."""
        main = threading.main_thread()
        return any(not each.daemon for each in threading.enumerate() if each is not main)

    def _invoke_callbacks(self) -> None:
        self.wake()  # the future is done, perhaps without `on_changed`
        super()._invoke_callbacks()

    def on_changed(self, job: Job) -> None:
        while self._read < len(job.log) - 1:
            self._read, items = job.log.read_data("token", self._read, EVENTS_PER_READ)
            if self._broken is None:
                self.items += items
        super().on_changed(job)
        self.wake()

    def wake(self) -> None:
        with self._waiting:
            self._waiting.notify_all()

    def take(self) -> tuple[T] | tuple[()] | None:
        """Return the next item, () if it has not come yet, None after the last one. Raise the job's error, if any."""
        if self._broken is not None:
            raise self._broken
        if not self.items:
            if not self.done():
                return ()
            if not self.items:  # the last items may have come between the two checks
                self.result()
                return None
        with self._take_lock:
            if not self.items:
                return ()  # another thread took it
            try:
                item = read(pickle.loads, self.items[0])
            except UnpickleFailed as why:
                self._broken = self._unpickle_error("item", why)  # first: `on_changed` then adds no more items
                self.items.clear()
                self.cancel(reason="an item cannot be unpickled here")
                raise self._broken from why.__cause__
            self.items.popleft()  # last: if an interrupt (Ctrl-C) comes before, the item is still there
        return (item,)

    def close_in_child(self) -> None:
        self._waiting = threading.Condition()
        self._take_lock = threading.RLock()
        super().close_in_child()

    def wait(self) -> None:
        """Wait until there is an item or the future is done."""
        with self._waiting:
            self._waiting.wait_for(lambda: self.items or self.done())


class Stream(Iterator[T]):
    """Iterates over the yields of one task, in order, and raises its error at the end, if any.

    `close()`, leaving the `with`, or dropping the stream (a `break`) stops the job; the first two wait for its end.
    """

    def __init__(self, future: StreamFuture[T]) -> None:
        self.future = future

    def __next__(self) -> T:
        try:
            while not (found := self.future.take()):
                if found is None:
                    raise StopIteration
                self.future.wait()
        except KeyboardInterrupt:  # its traceback keeps this stream, in a notebook for long
            self.future.cancel(reason=ctrl_c.OF_READER)
            raise
        return found[0]

    def close(self) -> None:
        """Stop the job if it still runs, and wait until none of its processes is alive."""
        if self.future.cancel(reason="the stream was closed"):
            self.future.wait_until_done()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # No wait: garbage collection may run anywhere, even where the supervisor's thread waits for this one.
        self.future.cancel_in_finalizer("the stream was dropped")


class AsyncStream(AsyncIterator[T]):
    """A `Stream` for a coroutine: `async for`, `async with`, `await stream.aclose()`.

    A cancel of the task that reads it in an `async for` stops the job. A cancelled `anext(stream)`, as by
    `asyncio.wait_for`, loses nothing and can be repeated.
    """

    def __init__(self, future: AsyncStreamFuture[T]) -> None:
        self.future = future
        self._reader: weakref.ref[asyncio.Task[Any]] | None = None
        """The task that was the last to read in an `async for`."""

    def __aiter__(self) -> AsyncIterator[T]:
        return _Loop(self)

    async def __anext__(self) -> T:
        return await self.future.next_item()

    def _follow(self, task: asyncio.Task[Any] | None) -> None:
        """Stop the job if this task ends cancelled, and no other has read since.

        The cancel may arrive where the items are used. The end of the last reference may then be late: a traceback or
        a cycle keeps one. A task that ends otherwise may have handed the stream on.
        """
        if task is not None and (self._reader is None or self._reader() is not task):
            self._reader = weakref.ref(task)
            task.add_done_callback(partial(_on_reader_done, weakref.ref(self)))

    async def aclose(self) -> None:
        """Stop the job if it still runs, and wait until none of its processes is alive."""
        if self.future.cancel(reason="the stream was closed"):
            while not self.future.done():
                await self.future.arrival()

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self.future.cancel_in_finalizer("the stream was dropped")


class _Loop(AsyncIterator[T]):
    """One `async for` over a stream."""

    def __init__(self, stream: AsyncStream[T]) -> None:
        self._stream = stream

    async def __anext__(self) -> T:
        future = self._stream.future
        self._stream._follow(asyncio.current_task())
        try:
            return await future.next_item()
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            future.cancel(reason="its reader was cancelled")
            raise


def _on_reader_done(known: weakref.ref[AsyncStream[Any]], task: asyncio.Task[Any]) -> None:
    stream = known()
    if stream is not None and task.cancelled() and stream._reader is not None and stream._reader() is task:
        stream.future.cancel(reason="its reader was cancelled")


class AsyncStreamFuture(StreamFuture[T]):
    """Wakes a coroutine in the event loop in which it was created, once for all items that have come."""

    def __init__(self, owner: FutureOwner) -> None:
        super().__init__(owner)
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._wake_scheduled = False
        self._turn_at = monotonic() + TURN_S
        """When the loop gets a turn even though there are items."""

    def wake(self) -> None:
        super().wake()
        if not self._wake_scheduled:
            self._wake_scheduled = True
            event_loops.tell(self._loop, self._arrived.set)

    async def next_item(self) -> T:
        """Return the next item. Raise StopAsyncIteration after the last one, or the job's error, if any."""
        if monotonic() >= self._turn_at:  # nothing else in a loop over the stream need ever suspend
            await event_loops.turn()
            self._turn_at = monotonic() + TURN_S
        while not (found := self.take()):
            if found is None:
                raise StopAsyncIteration
            await self.arrival()
            self._turn_at = monotonic() + TURN_S
        return found[0]

    async def arrival(self) -> None:
        """Wait until something has come since the last call."""
        await self._arrived.wait()
        self._arrived.clear()
        self._wake_scheduled = False
