"""killable's Executor and the libraries beside it, each behind one small adapter, used as its documents advise.

Runs in: a trial. A library is imported when a peer is prepared, so that no other's trial pays for it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, ClassVar, Protocol, Self

from executor import tasks

WORKERS = 2


class Awaited(Protocol):
    """A future, as far as it is needed here."""

    def result(self, timeout: float | None = None) -> Any: ...


class Peer(Protocol):
    """A pool that starts its workers when it is entered, or at the first job."""

    name: ClassVar[str]
    link: ClassVar[str]
    """Where its documents say what is done here."""
    module: ClassVar[str]
    cancels: ClassVar[bool] = True
    """Whether it has a way to stop a job that runs."""
    times_out: ClassVar[bool] = True
    """Whether it can be told how long a job may run."""
    streams: ClassVar[bool] = True
    share: ClassVar[float] = 1.0
    """Of the many small jobs that are measured, where a peer takes long for one."""

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None: ...

    @classmethod
    def prepare(cls) -> None:
        """Import it. Raise ImportError."""
        importlib.import_module(cls.module)

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited: ...

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> Awaited:
        """Submit a job that may run so long."""
        raise NotImplementedError

    def cancel(self, future: Awaited, grace_s: float = 0.0) -> None:
        """Stop a job that runs; `grace_s` where there is such a thing."""
        raise NotImplementedError

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]: ...

    def ready_to_stream(self) -> None:
        """Have warm workers and what a stream goes through."""

    def stream(self, count: int) -> Iterator[Any]:
        """Submit a job and yield its tokens as they come."""
        raise NotImplementedError

    def owners(self) -> list[int]:
        """Return the processes that its workers belong to, as pids: the program, where it is a library of that."""
        return [os.getpid()]

    def reopen(self) -> None:
        """Make a new pool in the place of a broken one."""

    def close(self) -> None:
        """Leave; what of it does not end by itself is ended with the trial."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Killable(Peer):
    name = "killable"
    link = "README.md, In your program: an Executor"
    module = "killable"

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None:
        import killable

        # The module of its jobs is preloaded, as README advises; who forks the program itself has it from there.
        self._executor = killable.Executor(max_workers=workers, preload=preload or [tasks.__name__], spares=spares)

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._executor.submit(function, *args)

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._executor.with_limits(run_s=run_s, grace_s=0).submit(function, *args)

    def cancel(self, future: Awaited, grace_s: float = 0.0) -> None:
        future.cancel(grace_s=grace_s)  # type: ignore[attr-defined]

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]:
        return self._executor.map(function, items, chunksize=chunksize)

    def stream(self, count: int) -> Iterator[Any]:
        return self._executor.stream(tasks.tokens, count)

    def close(self) -> None:
        self._executor.kill_workers()


class Library(Peer):
    """ProcessPoolExecutor, as it is where it forks; 3.14 can kill its workers, too."""

    name = "ProcessPoolExecutor"
    link = "https://docs.python.org/3/library/concurrent.futures.html#processpoolexecutor"
    module = "concurrent.futures.process"
    cancels = False
    times_out = False
    start_method: ClassVar[str] = "fork"

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None:
        self._workers = workers
        self._preload = preload
        self._context = multiprocessing.get_context(self.start_method)
        self.reopen()

    def reopen(self, initargs: tuple[Any, ...] = ()) -> None:
        from concurrent.futures import ProcessPoolExecutor

        initializer = tasks.keep_queue if initargs else self._preload
        self._executor = ProcessPoolExecutor(self._workers, self._context, initializer, initargs)

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._executor.submit(function, *args)

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]:
        return self._executor.map(function, items, chunksize=chunksize)

    def ready_to_stream(self) -> None:
        """Through a `multiprocessing.Queue`, which each worker is given as it starts."""
        self._queue: Any = self._context.Queue()
        self.close()
        self.reopen(initargs=(self._queue,))
        self.submit(tasks.nothing).result()

    def stream(self, count: int) -> Iterator[Any]:
        self.submit(tasks.put_tokens, count)
        return iter(self._queue.get, tasks.END)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class SpawningLibrary(Library):
    name = "ProcessPoolExecutor (spawn)"
    start_method = "spawn"


class Loky(Peer):
    name = "loky"
    link = "https://loky.readthedocs.io/en/stable/API.html"
    module = "loky"
    times_out = False

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None:
        self._workers = workers
        self._preload = preload
        self.reopen()

    def reopen(self) -> None:
        import loky

        self._executor = loky.get_reusable_executor(
            max_workers=self._workers, initializer=self._preload, timeout=300, kill_workers=True
        )

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._executor.submit(function, *args)  # type: ignore[no-any-return]

    def cancel(self, future: Awaited, grace_s: float = 0.0) -> None:
        """It stops all workers, or none."""
        self._executor.shutdown(kill_workers=True)
        self.reopen()

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]:
        return self._executor.map(function, items, chunksize=chunksize)  # type: ignore[no-any-return]

    def ready_to_stream(self) -> None:
        """Through a manager's queue, which can be an argument of a job."""
        self._manager = multiprocessing.Manager()
        self._queue = self._manager.Queue()

    def stream(self, count: int) -> Iterator[Any]:
        self.submit(tasks.put_tokens, count, self._queue)
        return iter(self._queue.get, tasks.END)

    def close(self) -> None:
        self._executor.shutdown(kill_workers=True)


class Pebble(Peer):
    name = "Pebble"
    link = "https://pebble.readthedocs.io/en/latest/"
    module = "pebble"

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None:
        self._open(workers, preload, ())

    def _open(self, workers: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
        import pebble

        self._pool = pebble.ProcessPool(max_workers=workers, initializer=initializer, initargs=initargs)

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._pool.schedule(function, args=args)

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._pool.schedule(function, args=args, timeout=run_s)

    def cancel(self, future: Awaited, grace_s: float = 0.0) -> None:
        future.cancel()  # type: ignore[attr-defined]

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]:
        return self._pool.map(function, items, chunksize=chunksize).result()

    def ready_to_stream(self) -> None:
        """As with the library's pool."""
        self._queue: Any = multiprocessing.Queue()
        self.close()
        self._open(WORKERS, tasks.keep_queue, (self._queue,))
        self.submit(tasks.nothing).result()

    def stream(self, count: int) -> Iterator[Any]:
        self.submit(tasks.put_tokens, count)
        return iter(self._queue.get, tasks.END)

    def close(self) -> None:
        self._pool.stop()


LIBRARIES: tuple[type[Peer], ...] = (Killable, Library, SpawningLibrary, Loky, Pebble)


def stop(peer: Peer, future: Awaited, pid: int) -> None:
    """End a job that runs: by the peer's own means, or from outside where it has none."""
    if peer.cancels:
        peer.cancel(future)
    else:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
