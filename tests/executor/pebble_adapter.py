"""Pebble's `ProcessPool` and its decorators, on an Executor, as a program that moves from one to the other would do it.

Runs in: programs that run Pebble's own tests (`pebble_test_runner.py`). Nothing here reaches into an Executor.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import multiprocessing
import multiprocessing.context
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pebble

from killable import Executor, WorkerCrashed

GRACE_S = 3.0
"""Pebble's `term_timeout`."""


class ProcessFuture(concurrent.futures.Future[Any]):
    """Done with the future of the Executor; a dead worker is a `ProcessExpired`."""

    def __init__(self, job: concurrent.futures.Future[Any]) -> None:
        super().__init__()
        self._job = job
        job.add_done_callback(self._on_done)

    def cancel(self) -> bool:
        return self._job.cancel()

    def running(self) -> bool:
        return self._job.running()

    def _on_done(self, job: concurrent.futures.Future[Any]) -> None:
        if job.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        self.set_running_or_notify_cancel()
        error = job.exception()
        if isinstance(error, WorkerCrashed):
            pid: int = job.pid  # type: ignore[attr-defined]
            expired = pebble.ProcessExpired(str(error), code=error.facts.get("exit_code", 0), pid=pid)
            expired.__cause__ = error
            error = expired
        if error is None:
            self.set_result(job.result())
        else:
            self.set_exception(error)


class MapFuture(concurrent.futures.Future[Any]):
    """The future of a `map`: done with its first chunk; its result is an iterator that an error does not end."""

    def __init__(self, chunks: list[ProcessFuture]) -> None:
        super().__init__()
        self._chunks = chunks
        self.set_running_or_notify_cancel()
        if not chunks:
            self.set_result(MapResults(chunks))
        for chunk in chunks:
            chunk.add_done_callback(self._on_chunk)

    def cancel(self) -> bool:
        accepted = [chunk.cancel() for chunk in self._chunks]
        return any(accepted)

    def _on_chunk(self, _: object) -> None:
        if not self.done():
            self.set_result(MapResults(self._chunks))


class MapResults(Iterator[Any]):
    def __init__(self, chunks: list[ProcessFuture]) -> None:
        self._results = itertools.chain.from_iterable(map(_results, chunks))

    def __next__(self) -> Any:
        value, error = next(self._results)
        if error is not None:
            raise error
        return value


def _results(chunk: ProcessFuture) -> list[tuple[Any, BaseException | None]]:
    try:
        return chunk.result()  # type: ignore[no-any-return]
    except BaseException as error:
        return [(None, error)]


def each_of(function: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[tuple[Any, BaseException | None]]:
    """Call the function with each item, in the worker."""
    results: list[tuple[Any, BaseException | None]] = []
    for arguments in chunk:
        try:
            results.append((function(*arguments), None))
        except BaseException as error:
            results.append((None, error))
    return results


class ProcessPool:
    def __init__(
        self,
        max_workers: int | None = None,
        max_tasks: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        context: Any = multiprocessing,
    ) -> None:
        self._make = functools.partial(
            Executor,
            max_workers,
            context if isinstance(context, multiprocessing.context.BaseContext) else None,
            initializer,
            tuple(initargs),
            max_tasks_per_child=max_tasks or None,
            grace_s=GRACE_S,
        )
        self._is_open = True
        self._futures: list[ProcessFuture] = []

    @functools.cached_property
    def _executor(self) -> Executor:
        return self._make()

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.join()

    @property
    def active(self) -> bool:
        return self._is_open or any(not each.done() for each in self._futures)

    def schedule(
        self,
        function: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        timeout: float | None = None,
    ) -> ProcessFuture:
        view = self._executor.with_limits(run_s=timeout)
        future = ProcessFuture(view.submit(function, *args, **kwargs))
        self._futures = [each for each in self._futures if not each.done()] + [future]
        return future

    def submit(self, function: Callable[..., Any], timeout: float | None, /, *args: Any, **kwargs: Any) -> Any:
        return self.schedule(function, args, kwargs, timeout)

    def map(
        self, function: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> MapFuture:
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1")
        items = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        return MapFuture([self.schedule(each_of, (function, chunk), timeout=timeout) for chunk in chunks])

    def close(self) -> None:
        self._is_open = False
        self._executor.shutdown(wait=False)

    def stop(self) -> None:
        self.close()
        for future in self._futures:
            future.cancel()

    def join(self, timeout: float | None = None) -> None:
        if self._is_open:
            raise RuntimeError("The Pool is still running")
        if concurrent.futures.wait(self._futures, timeout).not_done:
            raise TimeoutError("Tasks are still being executed")
        self._executor.shutdown()


def concurrently(
    function: Callable[..., Any], _name: str, _daemon: bool, timeout: float | None, context: Any, pool: Any
) -> Callable[..., Any]:
    """Stand in for what `pebble.concurrent.process` makes of a function."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> ProcessFuture:
        return (pool or _pool_of(context)).schedule(function, args, kwargs, timeout)  # type: ignore[no-any-return]

    return wrapper


def asynchronously(
    function: Callable[..., Any], name: str, daemon: bool, timeout: float | None, context: Any, pool: Any
) -> Callable[..., Any]:
    """Stand in for what `pebble.asynchronous.process` makes of a function."""
    call = concurrently(function, name, daemon, timeout, context, pool)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        return asyncio.wrap_future(call(*args, **kwargs))

    return wrapper


@functools.cache
def _pool_of(context: Any) -> ProcessPool:
    return ProcessPool(1, context=context)


def install() -> None:
    """Let `pebble` have these instead of its own."""
    pebble.ProcessPool = pebble.pool.process.ProcessPool = ProcessPool
    pebble.concurrent.process.__globals__["_process_wrapper"] = concurrently
    pebble.asynchronous.process.__globals__["_process_wrapper"] = asynchronously
