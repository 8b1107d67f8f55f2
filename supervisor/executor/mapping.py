"""`Executor.map`: items in chunks, results in order, and a bound on the tasks under way.

Runs in: supervisor, in the user's program.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from killable.supervisor.clock import monotonic

T = TypeVar("T")


def check(chunksize: int, buffersize: int | None) -> None:
    """Raise ValueError or TypeError with the messages of the standard library."""
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


Columns = tuple[Sequence[Any], ...]
"""The items of one chunk, by iterable. A tuple for each item instead would take three times as long to pickle."""


def results(
    submit: Callable[[Columns], Future[list[T]]],
    iterables: Sequence[Iterable[Any]],
    *,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """Submit the first tasks now, and return an iterator over the results of all."""
    deadline = None if timeout is None else timeout + monotonic()
    calls = map(submit, _chunks(iterables, chunksize))
    futures = deque(calls if buffersize is None else itertools.islice(calls, buffersize))
    return _in_order(futures, calls, deadline)


def _in_order(futures: deque[Future[list[T]]], calls: Iterator[Future[list[T]]], deadline: float | None) -> Iterator[T]:
    """Yield the results of each task. Closing the iterator early stops the rest."""
    try:
        while futures:
            left = None if deadline is None else max(0.0, deadline - monotonic())
            chunk = futures[0].result(left)
            futures.popleft()
            futures.extend(itertools.islice(calls, 1))  # before the yield, so that no worker waits for the reader
            chunk.reverse()
            while chunk:
                yield chunk.pop()  # keep no reference: the reader may want to free it
    finally:
        for future in futures:
            future.cancel()


def _chunks(iterables: Sequence[Iterable[Any]], size: int) -> Iterator[Columns]:
    """Yield chunks until the shortest iterable is exhausted."""
    if len(iterables) == 1:
        rest = iter(iterables[0])
        while chunk := list(itertools.islice(rest, size)):
            yield (chunk,)
    else:
        calls = zip(*iterables, strict=False)
        while chunk := list(itertools.islice(calls, size)):
            yield tuple(zip(*chunk, strict=True))
