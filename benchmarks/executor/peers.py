"""Killable's Executor and libraries like it, each behind one small adapter and used as its documentation advises.

Runs in: a trial. A peer's library is imported by `prepare`, so that no other peer's trial pays for it.
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

Preload = Callable[[], None]


class PeerFuture(Protocol):
    """The part of a future that is used here."""

    def result(self, timeout: float | None = None) -> Any: ...


class Peer:
    """A pool of workers, which it starts when it is created or for its first job. A context manager."""

    name: ClassVar[str]
    link: ClassVar[str]
    """Its documentation of what is done here."""
    module: ClassVar[str]
    distribution: ClassVar[str | None] = None
    """Its name in the package index; None: it is a part of Python."""
    can_cancel: ClassVar[bool] = True
    """Whether it can stop a job that runs."""
    can_time_out: ClassVar[bool] = True
    """Whether it can limit the run time of a job."""
    has_chunks: ClassVar[bool] = True
    """Whether its `map` can send several items together."""
    job_share: ClassVar[float] = 1.0
    """Share of the planned number of small jobs, for a peer that takes long for each."""

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        raise NotImplementedError

    @classmethod
    def prepare(cls) -> None:
        """Import the library. Raise ImportError."""
        importlib.import_module(cls.module)

    @classmethod
    def for_scripts(cls) -> type[Peer]:
        """Return the peer as it is used for functions of the program's own file."""
        return cls

    def submit(self, function: Callable[..., Any], *args: Any) -> PeerFuture:
        raise NotImplementedError

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> PeerFuture:
        """Submit a job with a limit of its run time."""
        raise NotImplementedError

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        """Stop a job that runs. Peers without a grace ignore `grace_s`."""
        raise NotImplementedError

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]:
        raise NotImplementedError

    def prepare_stream(self) -> None:
        """Start the workers and make the queue of a stream, where the peer needs one."""

    def stream(self, count: int) -> Iterator[Any]:
        """Submit a job and yield its tokens as they come."""
        raise NotImplementedError

    def owner_pids(self) -> list[int]:
        """Return the pids of the processes that own its workers: this program, for a library."""
        return [os.getpid()]

    def reopen(self) -> None:
        """Replace a broken pool by a new one."""

    def close(self) -> None:
        """Close the pool. Processes that are still alive end with the trial."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stop(peer: Peer, future: PeerFuture, pid: int) -> None:
    """End a job that runs: with the peer's own means, or with SIGKILL from outside where it has none."""
    if peer.can_cancel:
        peer.cancel(future)
    else:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# ── libraries ──


class LibraryPeer(Peer):
    """Base of peers with the interface of `concurrent.futures.Executor`, whose streams go through a queue."""

    _executor: Any
    _queue: Any

    def submit(self, function: Callable[..., Any], *args: Any) -> PeerFuture:
        return self._executor.submit(function, *args)  # type: ignore[no-any-return]

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]:
        return self._executor.map(function, items, chunksize=chunksize)  # type: ignore[no-any-return]

    def stream(self, count: int) -> Iterator[Any]:
        self.submit(tasks.put_tokens, count)
        return iter(self._queue.get, tasks.END)


class Killable(LibraryPeer):
    name = "killable"
    link = "README.md, In your program"
    module = "killable"
    distribution = "killable"

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        import killable

        # README advises to preload the module of the jobs; peers that fork this program inherit it.
        self._executor = killable.Executor(max_workers=workers, preload=preload or [tasks.__name__], spares=spares)

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> PeerFuture:
        limited = self._executor.with_limits(run_s=run_s, grace_s=0)
        return limited.submit(function, *args)  # type: ignore[no-any-return]

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        future.cancel(grace_s=grace_s)  # type: ignore[attr-defined]

    def stream(self, count: int) -> Iterator[Any]:
        """Yield from the job itself, without a queue."""
        return self._executor.stream(tasks.tokens, count)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._executor.kill_workers()


class StdlibPool(LibraryPeer):
    """ProcessPoolExecutor with the start method fork. It cannot stop a job; since 3.14 it can kill all workers."""

    name = "ProcessPoolExecutor"
    link = "https://docs.python.org/3/library/concurrent.futures.html#processpoolexecutor"
    module = "concurrent.futures.process"
    can_cancel = False
    can_time_out = False
    start_method: ClassVar[str] = "fork"

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        self._workers = workers
        self._preload = preload
        self._context = multiprocessing.get_context(self.start_method)
        self.reopen()

    def reopen(self, initargs: tuple[Any, ...] = ()) -> None:
        from concurrent.futures import ProcessPoolExecutor

        initializer = tasks.set_queue if initargs else self._preload
        self._executor = ProcessPoolExecutor(self._workers, self._context, initializer, initargs)

    def prepare_stream(self) -> None:
        """Use a `multiprocessing.Queue`, which a worker can receive only when it starts."""
        self._queue = self._context.Queue()
        self.close()
        self.reopen(initargs=(self._queue,))
        self.submit(tasks.do_nothing).result()

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class StdlibSpawnPool(StdlibPool):
    name = "ProcessPoolExecutor (spawn)"
    start_method = "spawn"


class Loky(LibraryPeer):
    name = "loky"
    link = "https://loky.readthedocs.io/en/stable/API.html"
    module = "loky"
    distribution = "loky"
    can_time_out = False

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        self._workers = workers
        self._preload = preload
        self.reopen()

    def reopen(self) -> None:
        import loky

        self._executor = loky.get_reusable_executor(
            max_workers=self._workers, initializer=self._preload, timeout=300, kill_workers=True
        )

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        """Kill all workers: it cannot stop a single one."""
        self.close()
        self.reopen()

    def prepare_stream(self) -> None:
        """Use a manager's queue, which can be an argument of a job."""
        self._manager = multiprocessing.Manager()
        self._queue = self._manager.Queue()

    def stream(self, count: int) -> Iterator[Any]:
        self.submit(tasks.put_tokens, count, self._queue)
        return iter(self._queue.get, tasks.END)

    def close(self) -> None:
        self._executor.shutdown(kill_workers=True)


class Pebble(LibraryPeer):
    name = "Pebble"
    link = "https://pebble.readthedocs.io/en/latest/"
    module = "pebble"
    distribution = "pebble"

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        self._open(workers, preload, ())

    def _open(self, workers: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
        import pebble

        self._executor = pebble.ProcessPool(max_workers=workers, initializer=initializer, initargs=initargs)

    def submit(self, function: Callable[..., Any], *args: Any) -> PeerFuture:
        return self._executor.schedule(function, args=args)  # type: ignore[no-any-return]

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> PeerFuture:
        return self._executor.schedule(function, args=args, timeout=run_s)  # type: ignore[no-any-return]

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        future.cancel()  # type: ignore[attr-defined]

    def map(self, function: Callable[..., Any], items: Iterable[Any], chunksize: int) -> Iterable[Any]:
        return self._executor.map(function, items, chunksize=chunksize).result()  # type: ignore[no-any-return]

    def prepare_stream(self) -> None:
        """Use a `multiprocessing.Queue`, as for ProcessPoolExecutor."""
        self._queue = multiprocessing.Queue()
        self.close()
        self._open(WORKERS, tasks.set_queue, (self._queue,))
        self.submit(tasks.do_nothing).result()

    def close(self) -> None:
        self._executor.stop()


class Deadpool(LibraryPeer):
    """Its `grace_s` is none: a cancel is SIGKILL. Its timeout is a timer thread of the worker that runs the job."""

    name = "deadpool"
    link = "https://github.com/cjrh/deadpool"
    module = "deadpool"
    distribution = "deadpool-executor"
    has_chunks = False
    start_method: ClassVar[str] = "forkserver"
    """Its default, which it advises; a forked worker could hold a lock of the program."""

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        self._context = multiprocessing.get_context(self.start_method)
        self._open(workers, preload, ())

    @classmethod
    def for_scripts(cls) -> type[Peer]:
        """Fork, which the table says: a fork server's workers would run the script again, each to have its globals."""
        return ForkDeadpool

    def _open(self, workers: int, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
        import deadpool

        self._executor = deadpool.Deadpool(
            workers, mp_context=self._context, initializer=initializer, initargs=initargs
        )

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> PeerFuture:
        return self._executor.submit(function, *args, deadpool_timeout=run_s)  # type: ignore[no-any-return]

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        future.cancel_and_kill_if_running()  # type: ignore[attr-defined]

    def prepare_stream(self) -> None:
        """Use a `multiprocessing.Queue`, as for ProcessPoolExecutor."""
        self._queue = self._context.Queue()
        self.close()
        self._open(WORKERS, tasks.set_queue, (self._queue,))
        self.submit(tasks.do_nothing).result()

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


class ForkDeadpool(Deadpool):
    start_method = "fork"


LIBRARIES: tuple[type[Peer], ...] = (Killable, StdlibPool, Loky, Pebble, Deadpool)
