"""`Executor`: a `concurrent.futures.Executor` whose running tasks can be stopped.

Runs in: supervisor, inside the user's program. A task goes `submit` → `PendingTasks` → the supervisor's thread → a
worker, and back through a `JobFuture`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
import logging
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NoReturn, ParamSpec, Self, TypeVar, overload

from killable.workers.runtime.executor_setup import (
    CALL,
    IMPORTED_AHEAD,
    POOL_MODULE,
    STREAM,
    ExecutorSetup,
    is_in_pool,
)

# Everything else is imported once the first guard has been started (`Executor.__init__`): that process and its zygote
# then start on another core while this one imports the supervisor.
if TYPE_CHECKING:
    import multiprocessing.context
    from types import FrameType, TracebackType

    from killable.supervisor.executor.futures import JobFuture
    from killable.supervisor.executor.streams import AsyncStream, Stream
    from killable.supervisor.linux.early_guard import EarlyGuard
    from killable.supervisor.settings import PoolSpec, Settings, StartMethod
    from killable.workers.authoring.context import Context
    from killable.workers.authoring.limits_and_caps import Limits

P = ParamSpec("P")
T = TypeVar("T")

logging.getLogger("killable").addHandler(logging.NullHandler())
"""Only programs that configure logging get records: without a handler Python would print bare messages to stderr."""
_numbers = itertools.count(1)


class Executor(concurrent.futures.Executor):
    """Runs tasks in processes, as `ProcessPoolExecutor` does, and can stop them.

    `future.cancel()` also stops a running task, even in native code. The future is done when the task's whole process
    tree is gone. A crash fails only the future of the task that crashed.

        with Executor(max_workers=2) as ex:
            future = ex.with_limits(run_s=5, grace_s=1).submit(encode, text)

    In a coroutine write `async with`. `submit`, `astream`, `cancel` and what is awaited never block the event loop;
    `result`, `map`, `stream` and the methods that wait do.

    Parameters, all optional:
    max_workers: maximum number of busy workers (default: the number of processors that this process may use).
    mp_context, initializer, initargs, max_tasks_per_child: as in ProcessPoolExecutor. The context selects "fork" (also
    for "forkserver") or "spawn"; nothing is ever forked from this process.
    start_method: "fork" (default; from a small process of the pool) or "spawn"; overrides `mp_context`.
    preload: names of modules to import, or a function to call, once in the process that workers are forked from:
    they share its memory.
    spares: warm workers beyond the busy ones (default 1), so that the next task after a kill need not wait for one.
    limits: for every task, as in `with_limits`; default: only `grace_s` 5, `ack_s` 0.5, `output_bytes` 256 MiB.
    nice: what is added to the niceness of the workers, from -20 to 19 (default 0).
    capture: keep what tasks print in `future.stdout` only (default: it is also shown on the program's stdout and
    stderr).
    logging: hand log records and warnings of tasks to the program's loggers and warnings, from the levels and filters
    on that are in force now (default). False: the workers handle them, as if they were programs of their own.

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
        capture: bool = False,
        logging: bool = True,
        **limits: Any,
    ) -> None:
        workers = None if max_workers is None else _positive("max_workers", max_workers)
        setup = _setup(preload, initializer, initargs, sends_logging=logging)
        tasks_per_worker = 0 if max_tasks_per_child is None else _positive("max_tasks_per_child", max_tasks_per_child)
        with _collector_paused(), contextlib.ExitStack() as undo:
            early_guard = _start_guard()
            if early_guard is not None:
                undo.callback(early_guard.close)

            from killable.supervisor.settings import PoolSpec, usable_cores

            _check(spares, nice, start_method, limits)
            self._limits = parse_limits(limits)
            pool = PoolSpec(
                name=POOL,
                modules=(POOL_MODULE,),
                workers=workers or usable_cores(),
                spares=spares,
                jobs_per_worker_max=tasks_per_worker,
                start_method=start_method or _start_method(mp_context),
                nice=nice,
                codec="pickle",
                setup=_encoded(setup),
            )
            if early_guard is not None:
                early_guard.begin_pool(pool)

            from killable.supervisor.executor import program_end
            from killable.supervisor.executor.futures import JobFuture
            from killable.supervisor.executor.pending_tasks import PendingTasks

            self._max_workers = pool.workers
            """Unused here: dask and other libraries read it from a `ProcessPoolExecutor`."""
            self._future_type: type[JobFuture[Any]] = JobFuture
            name = f"killable-executor-{next(_numbers)}"
            self._tasks = PendingTasks(_settings(pool), name, is_captured=capture, early_guard=early_guard)
            program_end.look_after(self._tasks)
            undo.pop_all()  # it ends with the supervisor's thread
        self._leave = weakref.finalize(self, self._tasks.shut_down, cancel_pending=False)
        self._leave.atexit = False  # `program_end` waits for the pending tasks
        self._owner: Executor | None = None
        """The executor behind a view with limits of its own. Never read: it keeps that executor alive as long as the
        view, because the finalizer of the executor shuts the tasks down.
        """

    @property
    def detail(self) -> str:
        """How and why the workers differ from what was asked for (they are exec'd and not forked, because a preload
        has started threads), or why the pool is broken; empty: neither.
        """
        thread = self._tasks.supervisor_thread
        return thread.fault or (self._tasks.supervisor.pool_details() if thread.has_started else "")

    def with_limits(self, **limits: Any) -> Executor:
        """Return a view of this executor whose tasks also have these limits. It shares the workers and the shutdown.

        Seconds (also "5m"): total_s, queue_s, start_s, first_token_s, idle_s, run_s, cpu_s, grace_s, ack_s, backoff_s,
        operation_s (by name). Bytes (also "2GiB"): memory_bytes, tmp_bytes, output_bytes. Counts: processes_max,
        threads_max, files_max, attempts_max. None: no such limit.
        Raise ValueError for a bad value, TypeError for an unknown name.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)  # a subclass's attributes, too
        view._limits = {**self._limits, **parse_limits(limits)}
        view._owner = self
        return view

    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[Concatenate[Context, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[T]: ...
    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> JobFuture[T]:
        """Run `fn(*args, **kwargs)` in a worker; return its future.

        Functions and classes of `__main__` are sent with what they use, lambdas and closures too. A parameter that is
        annotated `Context` gets the job's context; for type checkers it has to be the first. A generator function runs
        to its end; `stream` gives its yields.

        Raise RuntimeError after `shutdown`. A failure to pickle the call becomes the future's exception.
        """
        future: JobFuture[T] = self._future_type(self._tasks)
        self._tasks.submit(CALL, (fn, args, kwargs), self._limits, future)
        return future

    @overload
    def stream(self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]: ...
    @overload
    def stream(
        self, fn: Callable[Concatenate[Context, P], Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]: ...
    def stream(self, fn: Callable[..., Iterable[T]], /, *args: Any, **kwargs: Any) -> Stream[T]:
        """Run `fn` in a worker; return an iterator over the items that it yields, or of the iterable that it returns.

        A `break` stops the job. So does the exit of the program when only daemon threads are left to read the stream.
        Raise as `submit` does.
        """
        from killable.supervisor.executor.streams import Stream, StreamFuture

        future: StreamFuture[T] = StreamFuture(self._tasks)
        self._tasks.submit(STREAM, (fn, args, kwargs), self._limits, future)
        return Stream(future)

    @overload
    def astream(self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[T]: ...
    @overload
    def astream(
        self, fn: Callable[Concatenate[Context, P], Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncStream[T]: ...
    def astream(self, fn: Callable[..., Iterable[T]], /, *args: Any, **kwargs: Any) -> AsyncStream[T]:
        """Return the stream for `async for`. Call it only where an event loop runs.

        The job is stopped when the loop that reads it is left: by a `break`, an exception, or a cancel of its task.
        """
        from killable.supervisor.executor.streams import AsyncStream, AsyncStreamFuture

        future: AsyncStreamFuture[T] = AsyncStreamFuture(self._tasks)
        self._tasks.submit(STREAM, (fn, args, kwargs), self._limits, future)
        return AsyncStream(future)

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: Literal[False] = False,
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool,
    ) -> Iterator[T | BaseException]: ...
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[T | BaseException]:
        """Return an iterator over the results of `map(fn, *iterables)`, in order. Each task computes `chunksize` items.

        With `buffersize`, at most that many tasks are submitted ahead of the results that are read. `timeout` is in
        seconds, for the whole iteration (TimeoutError). The timeout, or leaving the iterator, stops what still runs.

        An exception of an item ends the iterator. With `return_exceptions` it stands in the item's place, and the
        iterator goes on. If a task dies, by a crash, a kill or a limit, the results of its other items are unknown:
        its error stands in the place of each of its `chunksize` items.
        """
        from killable.supervisor.executor import mapping

        order = mapping.AsSubmitted()
        return mapping.results(self.submit, fn, iterables, order, timeout, chunksize, buffersize, return_exceptions)

    @overload
    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: Literal[False] = False,
    ) -> Iterator[T]: ...
    @overload
    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool,
    ) -> Iterator[T | BaseException]: ...
    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[T | BaseException]:
        """Return an iterator over the same results as `map`, each task's as soon as it is done.

        The parameters are those of `map`. A result does not tell which item it is of: let `fn` return that, too.
        """
        from killable.supervisor.executor import mapping

        order = mapping.AsDone()
        return mapping.results(self.submit, fn, iterables, order, timeout, chunksize, buffersize, return_exceptions)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Executor cannot be sent to a worker or pickled: it belongs to the program that made it")

    def __repr__(self) -> str:
        limits = "".join(f" {name}={value!r}" for name, value in self._limits.items())
        return f"<{type(self).__name__} of {self._tasks.workers} workers{limits}>"

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks. With `wait`, return when the last one is over and no process is left.

        `cancel_futures` cancels the tasks that have not begun. May be called again.
        """
        self._tasks.shut_down(cancel_pending=cancel_futures)
        if wait:
            self._join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down and wait, as the standard library does. A BaseException that is no Exception (Ctrl-C, an exit, a
        cancelled asyncio task) stops the tasks instead of waiting for them, also when it comes during the wait.

        In a coroutine this blocks the event loop: if tasks are pending, a RuntimeWarning says so. Write `async with`.
        """
        if kind is not None and not issubclass(kind, Exception):
            self.terminate_workers()
            return
        try:
            self._warn_in_coroutine(sys._getframe(1))
        finally:
            try:
                self.shutdown()
            except Exception:
                raise
            except BaseException:
                self.terminate_workers()
                raise

    def _warn_in_coroutine(self, frame: FrameType) -> None:
        import inspect

        is_coroutine = frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR)
        if is_coroutine and self._tasks.under_way:
            warnings.warn(
                "this `with` blocks the event loop until the executor's tasks are over: write `async with`",
                RuntimeWarning,
                stacklevel=3,
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do what leaving a `with` does, while the event loop runs on."""
        if kind is None or issubclass(kind, Exception):
            await self.ashutdown()
        else:
            await self.aterminate_workers()

    async def ashutdown(self, *, cancel_futures: bool = False) -> None:
        """Shut down as `shutdown` does, and wait while the event loop runs on.

        If the waiting task is cancelled, every task is stopped as by `terminate_workers`, and CancelledError is raised
        when no process is left. A second cancel kills them.
        """
        self.shutdown(wait=False, cancel_futures=cancel_futures)
        await self._until_ended(None, 0.0)

    async def aterminate_workers(self, *, grace_s: float | None = None) -> None:
        """Do what `terminate_workers` does, while the event loop runs on. A cancel of the waiting task kills at once;
        CancelledError is raised when no process is left.
        """
        self._stop_all(grace_s)
        await self._until_ended(0.0)

    async def _until_ended(self, *graces: float | None) -> None:
        """Wait until no process is left. Each cancel of the waiting task stops every task with the next grace."""
        import asyncio

        from killable.supervisor import event_loops

        ended = event_loops.in_thread(asyncio.get_running_loop(), self._join)
        stops = iter(graces)
        cancelled: asyncio.CancelledError | None = None
        while not ended.done():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError as error:
                cancelled = error
                for grace_s in itertools.islice(stops, 1):
                    self._stop_all(grace_s)
        if cancelled is not None:
            raise cancelled

    def terminate_workers(self, *, grace_s: float | None = None) -> None:
        """Stop every task, with `grace_s` or its own grace, and shut down. Return when no process is left.

        What interrupts the wait (Ctrl-C) kills every task, and is raised when no process is left.
        """
        self._stop_all(grace_s)
        try:
            self._join(is_patient=False)
        except BaseException:
            self._stop_all(0.0)
            self._join(is_patient=False)
            raise

    def _join(self, *, is_patient: bool = True) -> None:
        """Wait until no process is left and what tasks have printed is shown. Not `is_patient`: only while the program
        reads it.
        """
        if self._tasks.can_wait() and self._tasks.supervisor_thread.join():
            self._tasks.output.join(is_patient=is_patient)

    def _stop_all(self, grace_s: float | None) -> None:
        self._tasks.shut_down(cancel_pending=True)
        self._tasks.stop_all(grace_s, "the executor's workers are terminated")

    def kill_workers(self) -> None:
        """Kill every task at once and shut down. Return when no process is left."""
        self.terminate_workers(grace_s=0)


POOL = "calls"
"""The name of an Executor's only pool."""


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector for the first Executor's imports. They make many objects and no garbage, and the
    collector would go through them, and through all that the program has, again and again: a tenth of the time.
    """
    pauses = gc.isenabled() and "killable.supervisor.supervisor" not in sys.modules
    if pauses:
        gc.disable()
    try:
        yield
    finally:
        if pauses:
            if not gc.get_freeze_count():
                # All that was made belongs to the oldest generation now, without a look at it.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _start_guard() -> EarlyGuard | None:
    """Start the guard of an Executor. Return None where the supervisor is to start it: with the first task in a worker,
    which may have imported a module that makes an Executor, and after an OSError, which it then reports.
    """
    try:
        from killable.supervisor.linux.early_guard import EarlyGuard

        return None if is_in_pool() else EarlyGuard(POOL, _import_path(), IMPORTED_AHEAD)
    except OSError:
        return None


def _settings(pool: PoolSpec) -> Settings:
    from killable.supervisor.settings import Settings
    from killable.workers.authoring.limits_and_caps import NO_CAPS

    return Settings(
        pools=(pool,),
        limits=_default_limits(),
        caps=NO_CAPS,
        queue_jobs_max=sys.maxsize,
        queue_bytes_max=sys.maxsize,
        keep_jobs=0,
        sweep=False,
    )


def _default_limits() -> Limits:
    from killable.workers.authoring.limits_and_caps import DEFAULT_LIMITS, LIMITS, UNSET, over

    changes = {name: each.default_of_executor for name, each in LIMITS.items()}
    return over(DEFAULT_LIMITS, {name: value for name, value in changes.items() if value is not UNSET})


def _check(spares: int, nice: int, start_method: str | None, limits: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError for an option that makes no sense, and TypeError for a keyword that is neither an
    argument of Executor nor a limit.
    """
    if _integer("spares", spares) < 0:
        raise ValueError("spares must not be negative")
    if not -20 <= _integer("nice", nice) <= 19:
        raise ValueError("nice must be from -20 to 19")
    if start_method not in (None, "fork", "spawn"):
        raise ValueError("start_method must be 'fork' or 'spawn'")
    import inspect

    from killable.workers.authoring.identifiers import did_you_mean
    from killable.workers.authoring.limits_and_caps import LIMITS

    for name in limits:
        if name not in LIMITS:
            arguments = list(inspect.signature(Executor).parameters)[:-1]
            meant = did_you_mean(name, [*arguments, *LIMITS])
            raise TypeError(f"an Executor has no argument or limit {name!r} ({meant})")


def parse_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits as seconds, bytes and counts. Raise TypeError for an unknown name, ValueError for a bad value."""
    from killable.workers.authoring.limits_and_caps import LIMITS, parse_limit

    parsed: dict[str, Any] = {}
    for name, value in limits.items():
        if value is None and name in LIMITS and not LIMITS[name].may_be_none:
            raise ValueError(f"{name} cannot be None")
        try:
            parsed[name] = parse_limit(name, value)
        except LookupError as error:
            raise TypeError(str(error)) from None
    return parsed


def _integer(name: str, number: object) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an integer")
    return number


def _positive(name: str, number: object) -> int:
    found = _integer(name, number)
    if found <= 0:
        raise ValueError(f"{name} must be greater than 0")
    return found


def _setup(
    preload: Sequence[str] | Callable[[], object],
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    *,
    sends_logging: bool,
) -> ExecutorSetup:
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    return ExecutorSetup(
        modules=() if callable(preload) else _names(preload),
        preload=preload if callable(preload) else None,
        initializer=initializer,
        initargs=initargs,
        sends_logging=sends_logging,
    )


def _encoded(setup: ExecutorSetup) -> bytes:
    """Raise any exception of pickling, with a note that says which argument it is."""
    try:
        return setup.encode(_import_path())
    except Exception as error:
        from killable.supervisor.executor import pickling_errors

        pickling_errors.name_in_setup(error, setup.initializer, setup.initargs)
        raise


def _names(modules: Sequence[str]) -> tuple[str, ...]:
    are_listed = isinstance(modules, Iterable) and not isinstance(modules, str)
    if not (are_listed and all(isinstance(name, str) for name in modules)):
        raise TypeError("preload must be a callable, or a list of names of modules")
    return tuple(modules)


def _start_method(context: multiprocessing.context.BaseContext | None) -> StartMethod:
    return "spawn" if context is not None and context.get_start_method() == "spawn" else "fork"


def _import_path() -> list[str]:
    """Return the program's sys.path without what is no text, which imports pass over, too."""
    return [entry for entry in sys.path if isinstance(entry, str)]
