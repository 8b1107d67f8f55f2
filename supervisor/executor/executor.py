"""`Executor`: a `concurrent.futures.Executor` whose running tasks can be stopped.

Runs in: supervisor, inside the user's program. A task goes `submit` → `PendingTasks` → the supervisor's thread → a
worker, and back through a `JobFuture`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from killable.supervisor.linux import host_forks
from killable.workers.runtime.executor_setup import (
    CALL,
    IMPORTED_AHEAD,
    POOL_MODULE,
    STREAM,
    ExecutorSetup,
    apply_to_each,
    is_in_pool,
)

# Everything else is imported once the first guard has been started (`Executor.__init__`): that process and its zygote
# then start on another core while this one imports the supervisor.
if TYPE_CHECKING:
    import multiprocessing.context
    from types import TracebackType

    from killable.supervisor.executor.futures import JobFuture
    from killable.supervisor.executor.pending_tasks import PendingTasks
    from killable.supervisor.executor.streams import AsyncStream, Stream
    from killable.supervisor.linux.early_guard import EarlyGuard
    from killable.supervisor.settings import PoolSpec, Settings, StartMethod
    from killable.workers.authoring.limits import Limits

P = ParamSpec("P")
T = TypeVar("T")

logging.getLogger("killable").addHandler(logging.NullHandler())
"""Only programs that configure logging get records: without a handler Python would print bare messages to stderr."""
_numbers = itertools.count(1)
_open_executors: weakref.WeakSet[PendingTasks] = weakref.WeakSet()


class Executor(concurrent.futures.Executor):
    """Runs tasks in processes, as `ProcessPoolExecutor` does, and can stop them.

    `future.cancel()` also stops a running task, even in native code. The future is done when the task's whole process
    tree is gone. A crash fails only the future of the task that crashed.

        with Executor(max_workers=2) as ex:
            future = ex.with_limits(run_s=5, grace_s=1).submit(encode, text)

    Parameters, all optional:
    max_workers: maximum number of busy workers (default: the number of processors that this process may use).
    mp_context, initializer, initargs, max_tasks_per_child: as in ProcessPoolExecutor. The context selects "fork" (also
    for "forkserver") or "spawn"; nothing is ever forked from this process.
    start_method: "fork" (default; from a small process of the pool) or "spawn"; overrides `mp_context`.
    preload: names of modules to import, or a function to call, once in the process that workers are forked from:
    they share its memory.
    spares: warm workers beyond the busy ones (default 1), so that the next task after a kill need not wait for one.
    limits: for every task, as in `with_limits`; default: only `grace_s` 5, `ack_s` 0.5, `output_bytes` 256 MiB.
    nice: niceness of the workers (default 0).

    Raise ValueError or TypeError for an invalid argument.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: multiprocessing.context.BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        start_method: StartMethod | None = None,
        preload: Sequence[str] | Callable[[], object] = (),
        spares: int = 1,
        nice: int = 0,
        **limits: Any,
    ) -> None:
        workers = None if max_workers is None else _positive("max_workers", max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        setup = ExecutorSetup(
            modules=() if callable(preload) else _names(preload),
            preload=preload if callable(preload) else None,
            initializer=initializer,
            initargs=initargs,
        )
        tasks_per_worker = 0 if max_tasks_per_child is None else _positive("max_tasks_per_child", max_tasks_per_child)
        with contextlib.ExitStack() as undo:
            early_guard = _start_guard()
            if early_guard is not None:
                undo.callback(early_guard.close)

            from killable.supervisor.executor.futures import JobFuture
            from killable.supervisor.executor.pending_tasks import PendingTasks
            from killable.supervisor.settings import PoolSpec, usable_cores

            pool = PoolSpec(
                name=POOL,
                modules=(POOL_MODULE,),
                workers=workers or usable_cores(),
                spares=spares,
                jobs_per_worker_max=tasks_per_worker,
                start_method=start_method or _start_method(mp_context),
                nice=nice,
                codec="pickle",
                setup=setup.encode(sys.path),
            )
            _check_names(limits)
            self._limits = parse_limits(limits)
            self._max_workers = pool.workers
            """Unused here: dask and other libraries read it from a `ProcessPoolExecutor`."""
            self._future_type: type[JobFuture[Any]] = JobFuture
            self._tasks = PendingTasks(_settings(pool), f"killable-executor-{next(_numbers)}", early_guard)
            _open_executors.add(self._tasks)
            undo.pop_all()  # it ends with the supervisor's thread
        self._leave = weakref.finalize(self, self._tasks.shut_down, cancel_pending=False)
        self._leave.atexit = False  # `_at_exit` waits for the pending tasks
        self._owner: Executor | None = None
        """The executor behind a view with limits of its own. Never read: it keeps that executor alive as long as the
        view, because the finalizer of the executor shuts the tasks down.
        """

    @property
    def detail(self) -> str:
        """How and why the workers differ from what was asked for (they are exec'd and not forked, because a preload
        has started threads), or why the pool is broken; empty: neither.
        """
        return self._tasks.detail

    def with_limits(self, **limits: Any) -> Executor:
        """Return a view of this executor whose tasks also have these limits. It shares the workers and the shutdown.

        Seconds (also "5m"): total_s, queue_s, start_s, first_token_s, idle_s, run_s, cpu_s, grace_s, ack_s, backoff_s,
        operation_s (by name). Bytes (also "2GiB"): memory_bytes, output_bytes. Counts: processes_max, files_max,
        attempts_max. None: no such limit.
        Raise ValueError for a bad value, TypeError for an unknown name.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)  # a subclass's attributes, too
        view._limits = {**self._limits, **parse_limits(limits)}
        view._owner = self
        return view

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]:
        """Run `fn(*args, **kwargs)` in a worker; return its future.

        Lambdas, closures and functions of `__main__` are sent by value (cloudpickle). A parameter that is annotated
        `Context` gets the job's context. A generator function runs to its end; use `stream` to get its yields.

        Raise RuntimeError after `shutdown`. A failure to pickle the call becomes the future's exception.
        """
        future: JobFuture[T] = self._future_type(self._tasks)
        self._tasks.submit(CALL, (fn, args, kwargs), self._limits, future)
        return future

    def stream(self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        """Run `fn` in a worker; return an iterator over the items that it yields, or of the iterable that it returns.

        A `break` stops the job. So does the exit of the program when only daemon threads are left to read the stream.
        Raise as `submit` does.
        """
        from killable.supervisor.executor.streams import Stream, StreamFuture

        future: StreamFuture[T] = StreamFuture(self._tasks)
        self._tasks.submit(STREAM, (fn, args, kwargs), self._limits, future)
        return Stream(future)

    def astream(self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[T]:
        """Return the stream for `async for`. Call it only where an event loop runs."""
        from killable.supervisor.executor.streams import AsyncStream, AsyncStreamFuture

        future: AsyncStreamFuture[T] = AsyncStreamFuture(self._tasks)
        self._tasks.submit(STREAM, (fn, args, kwargs), self._limits, future)
        return AsyncStream(future)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over the results of `map(fn, *iterables)`, in order. Each task computes `chunksize` items.

        With `buffersize`, at most that many tasks are submitted ahead of the results that are read. `timeout` is in
        seconds, for the whole iteration (TimeoutError). The timeout, or leaving the iterator, stops what still runs.
        """
        from killable.supervisor.executor import mapping

        mapping.check(chunksize, buffersize)
        return mapping.results(
            lambda columns: self.submit(apply_to_each, fn, *columns),
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
        )

    def __repr__(self) -> str:
        limits = "".join(f" {name}={value!r}" for name, value in self._limits.items())
        return f"<{type(self).__name__} of {self._tasks.workers} workers{limits}>"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks. With `wait`, return when the last one is over and no process is left.

        `cancel_futures` cancels the tasks that have not begun. May be called again.
        """
        self._tasks.shut_down(cancel_pending=cancel_futures)
        if wait:
            self._tasks.supervisor_thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down and wait, as the standard library does. A BaseException that is no Exception (Ctrl-C, an exit, a
        cancelled asyncio task) stops the tasks instead of waiting for them.
        """
        if kind is None or issubclass(kind, Exception):
            self.shutdown()
        else:
            self.terminate_workers()

    def terminate_workers(self, *, grace_s: float | None = None) -> None:
        """Stop every task, with `grace_s` or its own grace, and shut down. Return when no process is left."""
        self._tasks.shut_down(cancel_pending=True)
        self._tasks.stop_all(grace_s, "the executor's workers are terminated")
        self._tasks.supervisor_thread.join()

    def kill_workers(self) -> None:
        """Kill every task at once and shut down. Return when no process is left."""
        self.terminate_workers(grace_s=0)


POOL = "calls"
"""The name of an Executor's only pool."""


def _start_guard() -> EarlyGuard | None:
    """Start the guard of an Executor. Return None where the supervisor is to start it: with the first task in a worker,
    which may have imported a module that makes an Executor, and after an OSError, which it then reports.
    """
    try:
        from killable.supervisor.linux.early_guard import EarlyGuard

        return None if is_in_pool() else EarlyGuard(POOL, sys.path, IMPORTED_AHEAD)
    except OSError:
        return None


def _settings(pool: PoolSpec) -> Settings:
    from killable.supervisor.settings import Settings

    return Settings(
        pools=(pool,),
        limits=_default_limits(),
        caps={},
        queue_jobs_max=sys.maxsize,
        queue_bytes_max=sys.maxsize,
        keep_jobs=0,
        sweep=False,
    )


def _default_limits() -> Limits:
    from killable.workers.authoring.limits import DEFAULT_LIMITS, LIMITS, UNSET, over

    changes = {name: each.default_of_executor for name, each in LIMITS.items()}
    return over(DEFAULT_LIMITS, {name: value for name, value in changes.items() if value is not UNSET})


def _check_names(limits: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword that is neither an argument of Executor nor a limit."""
    import inspect

    from killable.workers.authoring.identifiers import did_you_mean
    from killable.workers.authoring.limits import LIMITS

    for name in limits:
        if name not in LIMITS:
            arguments = list(inspect.signature(Executor).parameters)[:-1]
            meant = did_you_mean(name, [*arguments, *LIMITS])
            raise TypeError(f"an Executor has no argument or limit {name!r} ({meant})")


def parse_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits as seconds, bytes and counts. Raise TypeError for an unknown name, ValueError for a bad value."""
    from killable.workers.authoring.limits import LIMITS, parse_limit

    parsed: dict[str, Any] = {}
    for name, value in limits.items():
        if value is None and name in LIMITS and not LIMITS[name].may_be_none:
            raise ValueError(f"{name} cannot be None")
        try:
            parsed[name] = parse_limit(name, value)
        except LookupError as error:
            raise TypeError(str(error)) from None
    return parsed


def _positive(name: str, number: object) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an integer")
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0")
    return number


def _names(modules: Sequence[str]) -> tuple[str, ...]:
    if isinstance(modules, str) or not all(isinstance(name, str) for name in modules):
        raise TypeError("preload must be a callable, or a list of names of modules")
    return tuple(modules)


def _start_method(context: multiprocessing.context.BaseContext | None) -> StartMethod:
    return "spawn" if context is not None and context.get_start_method() == "spawn" else "fork"


LOOK_S = 0.2
"""Interval at which running streams are checked for a reader at the exit of the program."""


def _at_exit() -> None:
    """Let pending tasks finish at exit, as ProcessPoolExecutor does, but no streams without a reader. After a Ctrl-C
    stop all: workers run in sessions of their own and did not get the SIGINT.
    """
    for each in list(_open_executors):
        each.shut_down(cancel_pending=False)
        if _was_interrupted():
            each.stop_all(None, "the program was interrupted")


def _after_library_pools() -> None:
    """Stop streams without a reader, after the library has joined its pools: their idle threads pass for readers."""
    calls = list(_open_executors)
    for each in calls:
        while not each.supervisor_thread.join(0):
            for one in calls:
                one.stop_unread()
            each.supervisor_thread.join(LOOK_S)  # other threads may still be readers


def _was_interrupted() -> bool:
    """Return whether an uncaught Ctrl-C ends the program. In an interactive session it may be from an earlier line."""
    return issubclass(getattr(sys, "last_type", object), KeyboardInterrupt) and not hasattr(sys, "ps1")


def _in_child() -> None:
    calls = list(_open_executors)
    with contextlib.ExitStack() as leaving:  # calls all of them, even if one raises
        for each in calls:
            leaving.callback(each.close_in_child)


host_forks.in_each_child(_in_child)
# Called before threads are joined, as in the library: the callback that was registered last runs first.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
threading._threading_atexits.insert(0, _after_library_pools)  # type: ignore[attr-defined]
