"""The limit: SIGKILL and a pidfd, nothing else, on a process like a worker.

Runs in: the benchmark (RawForker) | its forking child (`python raw.py MODULE NICE`) | that one's children, the victims.

Like a worker: same interpreter, environment, module, preloads and frozen heap; a fork, leader of its own session, at
the same nice level; the same function, driven to the same point.
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
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

from deathwatch import DeathWatch

from killable.supervisor.linux.spawner import THREAD_LIMITS
from killable.supervisor.settings import PoolSpec
from killable.workers.authoring import job_functions
from killable.workers.runtime import process_setup

NICE = PoolSpec("", ()).nice
READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that is in its work."""

    pid: int


class RawForker:
    """A zygote without a supervisor: forks victims and reaps them. A context manager."""

    def __init__(self, module: str, nice: int = NICE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, module, str(nice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**THREAD_LIMITS, **os.environ},
            bufsize=0,
        )
        self._read_line()  # it has loaded everything

    def fork(self, workload: str) -> Victim:
        """Return a victim that has said it is in."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{workload}\n".encode())
        return Victim(int(self._read_line()))

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


def kill(victim: Victim, watch: DeathWatch) -> float:
    """SIGKILL a victim; return the milliseconds until its pidfd said that it is dead."""
    watched = watch.watch(victim.pid)
    asked_at = time.monotonic()
    signal.pidfd_send_signal(watched.pidfd, signal.SIGKILL)
    return (watch.died_at(watched) - asked_at) * 1000


def main(module: str, nice: int) -> None:
    """Load as a zygote does, then fork on request and reap, until stdin ends; what is left then is killed."""
    importlib.import_module(module)
    job_functions.run_preloads(each_worker=False)
    gc.collect()
    gc.freeze()
    victims: set[int] = set()

    def reap(_signum: int, _frame: FrameType | None) -> None:
        while victims:  # several may have died for one signal, and it may come again in here
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            victims.discard(pid)

    signal.signal(signal.SIGCHLD, reap)
    os.write(1, b"ready\n")
    while request := os.read(0, 4096):
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            _be_victim(request.decode().strip(), parent, nice)
        victims.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_victim(workload: str, parent: int, nice: int) -> None:
    """Never returns: every workload of the benchmark goes on until it is killed."""
    try:
        os.setsid()
        process_setup.reset_signals()
        process_setup.die_with(parent)
        process_setup.set_process_limits(nice)
        for _ in job_functions.registered()[workload].function():
            os.write(1, f"{os.getpid()}\n".encode())
    finally:
        os._exit(70)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
