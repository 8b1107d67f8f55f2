"""`Executor.map` and `map_unordered`: items in chunks, results in order or as they come, and a bound on what is ahead.

Runs in: supervisor, in the user's program.
"""

from __future__ import annotations

import itertools
import queue
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from killable.supervisor.clock import monotonic
from killable.supervisor.executor.futures import JobFuture
from killable.supervisor.executor.task_results import RemoteTraceback, UnpickleFailed, raised_error
from killable.workers.errors import JobFailed
from killable.workers.named_tuples import NamedTuple
from killable.workers.runtime.executor_setup import ItemRaised, apply_to_each, try_each


def _check(chunksize: int, buffersize: int | None) -> None:
    """Raise ValueError or TypeError with the messages of the standard library."""
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


Columns = tuple[Sequence[Any], ...]
"""The items of one chunk, by iterable. A tuple for each item instead would take three times as long to pickle."""


class Chunk(NamedTuple):
    """A task that computes some items."""

    future: JobFuture[list[Any]]
    items: int

    def results(self, timeout_s: float | None, errors_are_items: bool) -> list[Any]:
        """Wait for the results of its items. Raise TimeoutError after `timeout_s`.

        `errors_are_items`: an exception stands in the place of its item, and the error of the task in that of each.
        """
        if not errors_are_items:
            return self.future.result(timeout_s)
        try:
            error = self.future.exception(timeout_s)
        except CancelledError as cancelled:
            error = cancelled
        if error is not None:
            return [error] * self.items
        found = self.future.result()
        return [_error(each, self.future) if isinstance(each, ItemRaised) else each for each in found]


class AsSubmitted:
    """The chunks that were submitted and not read yet, in the order of `map`."""

    def __init__(self) -> None:
        self.chunks: OrderedDict[Future[list[Any]], Chunk] = OrderedDict()

    def add(self, chunk: Chunk) -> None:
        self.chunks[chunk.future] = chunk

    def first(self, timeout_s: float | None) -> Chunk:
        """Return the chunk to read next, which may not be done. Raise TimeoutError."""
        return next(iter(self.chunks.values()))


class AsDone(AsSubmitted):
    """The order of `map_unordered`."""

    def __init__(self) -> None:
        super().__init__()
        self._done: queue.SimpleQueue[Future[list[Any]]] = queue.SimpleQueue()

    def add(self, chunk: Chunk) -> None:
        super().add(chunk)
        chunk.future.add_done_callback(self._done.put)

    def first(self, timeout_s: float | None) -> Chunk:
        try:
            return self.chunks[self._done.get(timeout=timeout_s)]
        except queue.Empty:
            raise TimeoutError from None


def results(
    submit: Callable[..., JobFuture[list[Any]]],
    fn: Callable[..., Any],
    iterables: Sequence[Iterable[Any]],
    order: AsSubmitted,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
    errors_are_items: bool,
) -> Iterator[Any]:
    """Submit the first tasks now, and return an iterator over the results of all. Raise as `_check` does."""
    _check(chunksize, buffersize)
    deadline = None if timeout is None else timeout + monotonic()
    each = try_each if errors_are_items else apply_to_each
    later = (Chunk(submit(each, fn, *columns), len(columns[0])) for columns in _columns(iterables, chunksize))
    for chunk in later if buffersize is None else itertools.islice(later, buffersize):
        order.add(chunk)
    return _read(order, later, deadline, errors_are_items)


def _read(order: AsSubmitted, later: Iterator[Chunk], deadline: float | None, errors_are_items: bool) -> Iterator[Any]:
    """Yield the results of each task. Closing the iterator early stops the rest."""
    try:
        while order.chunks:
            found = _next(order, deadline, errors_are_items)
            for chunk in itertools.islice(later, 1):  # before the yield, so that no worker waits for the reader
                order.add(chunk)
                del chunk
            found.reverse()
            while found:
                yield found.pop()  # keep no reference: the reader may want to free it
    except GeneratorExit:  # perhaps of a collection, which may come anywhere
        for chunk in reversed(order.chunks.values()):
            chunk.future.cancel_in_finalizer("")
        raise
    except BaseException:
        for chunk in order.chunks.values():
            chunk.future.cancel()
        raise


def _next(order: AsSubmitted, deadline: float | None, errors_are_items: bool) -> list[Any]:
    left_s = None if deadline is None else max(0.0, deadline - monotonic())
    chunk = order.first(left_s)
    found = chunk.results(left_s, errors_are_items)
    del order.chunks[chunk.future]
    return found


def _error(raised: ItemRaised, future: JobFuture[Any]) -> BaseException:
    """Return the exception of an item, or a JobFailed if it cannot be pickled or unpickled."""
    cause: BaseException | None = None
    if raised.pickled:
        try:
            return raised_error(raised.pickled, raised.traceback)
        except UnpickleFailed as why:
            cause = why.__cause__
    failed = JobFailed(
        raised.message,
        code="exception",
        type=raised.type,
        traceback=raised.traceback,
        job_id=future.job_id,
        certificate=future.certificate,
    )
    failed.__cause__ = cause or RemoteTraceback(raised.traceback)
    return failed


def _columns(iterables: Sequence[Iterable[Any]], size: int) -> Iterator[Columns]:
    """Yield the items of each chunk until the shortest iterable is exhausted."""
    if len(iterables) == 1:
        rest = iter(iterables[0])
        while chunk := list(itertools.islice(rest, size)):
            yield (chunk,)
    else:
        calls = zip(*iterables, strict=False)
        while chunk := list(itertools.islice(calls, size)):
            yield tuple(zip(*chunk, strict=True))
