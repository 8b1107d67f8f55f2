"""The lower limit of a kill: SIGKILL and a pidfd, nothing else, on a process like a worker.

Runs in: the benchmark (ForkServer) | its forking child (`python raw_kill.py MODULE NICE`) | that child's children.

These are like a worker: same interpreter, environment, module, preloads and frozen heap; forked, leader of a session of
their own, at the same nice level; they run the same function up to the same point.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType, TracebackType
from typing import Self

from killable.api.cli.bench.pidfd_watcher import PidfdWatcher
from killable.supervisor.linux.environment_defaults import ENVIRONMENT_DEFAULTS
from killable.supervisor.settings import PoolSpec
from killable.workers.authoring import job_functions
from killable.workers.runtime import process_setup

NICE = PoolSpec("", ()).nice
READY_S = 30.0


class ForkServer:
    """A zygote without a supervisor: forks processes that run a job, and reaps them. A context manager."""

    def __init__(self, module: str, nice: int = NICE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, module, str(nice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT_DEFAULTS, **os.environ},
            bufsize=0,
        )
        self._read_line()  # module and preloads are loaded

    def fork(self, job_name: str) -> int:
        """Start a job that yields once and then runs for ever; return its pid after the first token."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{job_name}\n".encode())
        return int(self._read_line())

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], READY_S)[0]:
            raise TimeoutError(f"no answer from {self._process.args!r}")
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def kill(pid: int, watcher: PidfdWatcher) -> float:
    """Send SIGKILL; return the milliseconds until the pidfd reports the death."""
    watched = watcher.watch(pid)
    sent_at = time.monotonic()
    signal.pidfd_send_signal(watched.pidfd, signal.SIGKILL)
    return (watcher.died_at(watched) - sent_at) * 1000


def main(module: str, nice: int) -> None:
    """Load as a zygote does, then fork on request and reap until stdin ends; kill the children that are left."""
    importlib.import_module(module)
    job_functions.run_preloads(each_worker=False)
    gc.collect()
    gc.freeze()
    children: set[int] = set()

    def reap(_signum: int, _frame: FrameType | None) -> None:
        while children:  # one signal may stand for several deaths, and the handler may interrupt itself
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            children.discard(pid)

    signal.signal(signal.SIGCHLD, reap)
    os.write(1, b"ready\n")
    while request := os.read(0, 4096):
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            _run_child(request.decode().strip(), parent, nice)
        children.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run_child(job_name: str, parent: int, nice: int) -> None:
    """Run a job as a worker would. Never returns."""
    try:
        os.setsid()
        process_setup.reset_signals()
        process_setup.die_with(parent)
        process_setup.set_process_limits(nice)
        for _ in job_functions.registered()[job_name].function():
            os.write(1, f"{os.getpid()}\n".encode())
    finally:
        os._exit(70)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
