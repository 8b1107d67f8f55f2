"""A real `killable serve` of your jobs for tests, and one job in a real worker.

Runs in: Linux. The server is a process of its own, and ends with this one, however that ends.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from killable.api.client.async_client import AsyncClient
from killable.api.client.client import Client
from killable.api.client.submission import JobOptions
from killable.api.testing.finished_job import FinishedJob
from killable.api.testing.live_jobs import TIMEOUT_S, AsyncLiveJob, LiveJob

STOP_S = 30.0
"""How long the server may take to end its jobs and itself before it is killed."""

JobType = str | Callable[..., Any]
"""A job's name, or its function."""


class JobServer:
    """A server of a file or module of jobs, or of what `killable.toml` names, at a free port.

        with JobServer("my_jobs.py") as server:
            job = server.submit("split", text="one two")
            job.assert_next("one", "two")
            job.assert_ended(result={"words": 2})

    It runs the interpreter of the tests, and finds modules where they do. Raise ServerFailed if it does not start.
    """

    def __init__(
        self, target: str | os.PathLike[str] | None = None, *arguments: str,
        folder: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`arguments`: more of `killable serve`. `folder`: where it runs (default: here). `env`: more variables."""
        paths = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-m", "killable.api.cli", "serve", *([] if target is None else [os.fspath(target)])]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        from killable.workers.runtime.process_setup import PR_SET_PDEATHSIG, prctl  # Linux only

        def end_with_parent() -> None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

        # The kernel takes the thread that starts it for its parent: only the main one is there to the end.
        is_main = threading.current_thread() is threading.main_thread()
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--json", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, **(env or {})}, preexec_fn=end_with_parent if is_main else None,
        )  # fmt: skip
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        try:
            self.url: str = json.loads(told)["url"]
        except (ValueError, KeyError):
            rest = self.process.stdout.read()
            self.process.wait()
            said = (told + rest).decode(errors="replace") + self.log()
            self._close()
            raise ServerFailed(f"`killable serve` has not started:\n{said}") from None
        self.client = Client(self.url)
        """A client of it."""

    def submit(self, type: JobType, /, *, options: JobOptions | None = None, **input: Any) -> LiveJob:
        """Submit a job, by name or by its function. `options`: those of `Client.submit`, such as `limits`."""
        return LiveJob(self.client.submit(name_of(type), input, **(options or {})))

    def run_job(self, type: JobType, /, *, options: JobOptions | None = None, **input: Any) -> FinishedJob:
        """Run a job to its end, however it ends, and return all that was seen of it."""
        return self.submit(type, options=options, **input).finish(float("1e6"))

    @asynccontextmanager
    async def asynchronous(self) -> AsyncIterator[AsyncJobs]:
        """Give the same in an event loop: `async with server.asynchronous() as jobs:`."""
        async with AsyncClient(self.url) as client:
            jobs = AsyncJobs(client)
            try:
                yield jobs
            finally:
                for job in jobs.jobs:
                    await job.aclose()

    def log(self) -> str:
        """Return what the server has logged so far."""
        # Not by seeking: the server writes where this descriptor is.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def stop(self) -> None:
        """End the server with its jobs, without their grace. May be repeated."""
        if self.process.poll() is None:
            self.client.close()
            for _ in range(2):  # the second one leaves no grace
                self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class AsyncJobs:
    """Jobs of a server, in an event loop."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.jobs: list[AsyncLiveJob] = []
        """Those that were submitted."""

    async def submit(self, type: JobType, /, *, options: JobOptions | None = None, **input: Any) -> AsyncLiveJob:
        """As `JobServer.submit`."""
        job = AsyncLiveJob(await self.client.submit(name_of(type), input, **(options or {})))
        self.jobs.append(job)
        return job

    async def run_job(self, type: JobType, /, *, options: JobOptions | None = None, **input: Any) -> FinishedJob:
        """As `JobServer.run_job`."""
        return await (await self.submit(type, options=options, **input)).finish(float("1e6"))


class ServerFailed(RuntimeError):
    """The server has not started; the message has what it said."""


def run_job(
    function: Callable[..., Any], input: Mapping[str, Any] | None = None, *, options: JobOptions | None = None,
    cancel_after: int | None = None, arguments: Sequence[str] = (),
) -> FinishedJob:  # fmt: skip
    """Run a job function in a real worker of a server of its own, and return its result, stream, ending, certificate.

        done = run_job(my_jobs.split, {"text": "one two"})
        assert (done.tokens, done.result, done.state) == (["one", "two"], {"words": 2}, "completed")

    With `cancel_after` it is cancelled after so many tokens. A server takes a second to start: for several jobs use
    one `JobServer`, or the fixture `killable_server`. `arguments` are further ones of `killable serve`.
    """
    with JobServer(file_of(function), *arguments) as server:
        job = server.submit(function, options=options, **(input or {}))
        if cancel_after is None:
            return job.finish(float("1e6"))
        for _ in range(cancel_after):
            job.assert_next(timeout_s=TIMEOUT_S)
        return job.cancel()


def name_of(type: JobType) -> str:
    """Return the name of a job type. Raise ValueError for a function without @job."""
    if isinstance(type, str):
        return type
    from killable.workers.authoring.registered_types import registered

    for name, declared in registered().items():
        if declared.function is type:
            return name
    raise ValueError(f"{getattr(type, '__qualname__', type)!r} is no job: put @job above it")


def file_of(function: Callable[..., Any]) -> str:
    """Return what `killable serve` takes for the module of a job function: its dotted name, or its file."""
    module = inspect.getmodule(function)
    if module is not None and "." in module.__name__:
        return module.__name__
    return str(Path(inspect.getfile(function)).resolve())
