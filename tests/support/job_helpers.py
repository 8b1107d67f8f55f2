"""Helpers of the job types, and the process name by which a test finds the processes of a job.

Runs in: worker | the tests. Job types import asyncio, hashlib, multiprocessing, pathlib and subprocess where they use
them, before they say "in": each zygote and each exec'd worker of thousands would take a fifth longer to start. This
module is for tasks of an Executor, too, whose workers import no declarations of jobs: it imports none.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from killable import Context

CLONE_PARENT = 0x00008000
"""clone(2)."""
STACK_BYTES = 64 << 10


def process_name_of(job_id: str) -> str:
    """Return the name of a job's processes. The kernel keeps 15 characters."""
    return "k" + job_id.removeprefix("job-").replace("-", "")[:14]


def name_process(ctx: Context) -> None:
    with open("/proc/self/comm", "w") as file:
        file.write(process_name_of(ctx.job_id))


def announce_entry(ctx: Context) -> None:
    name_process(ctx)
    ctx.emit("in")


def fork_one(*, new_session: bool, twice: bool = False, stopped: bool = False) -> int:
    """Fork a process that ignores SIGTERM and stays for ever; return its pid once it is as it will be."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        if new_session:
            os.setsid()
        if twice and os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(writable, str(os.getpid()).encode())
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            time.sleep(3600)
    if twice:
        os.waitpid(pid, 0)
    if stopped:
        os.waitpid(pid, os.WUNTRACED)  # tells of the stop, and reaps nobody
    os.close(writable)
    found = int(os.read(readable, 20))
    os.close(readable)
    return found


class HeldBackOutput:
    """Hold back the output of a job, until the job sends it from inside the C call in which it hangs.

    A deadline that begins with output (a token, an operation) then cannot pass before the job is there, however long
    the machine stands still on the way.
    """

    def __init__(self, ctx: Context) -> None:
        self._channel: Any = ctx._channel
        self._descriptor: int = self._channel._descriptor
        self._held = -1

    def __enter__(self) -> HeldBackOutput:
        self._held = self._channel._descriptor = os.memfd_create("held back")
        return self

    def release(self) -> Iterator[int]:
        """Return an iterator that sends what was held back, in one write. It is implemented in C: its steps run no
        Python, and so no signal handler, when a C function takes them. Later output is not held back.
        """
        held, self._held = self._held, -1
        said = os.pread(held, 1 << 16, 0)
        os.close(held)
        self._channel._descriptor = self._descriptor
        return map(os.write, (self._descriptor,), (said,))

    def __exit__(self, *_error: object) -> None:
        if self._held != -1:
            list(self.release())


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def clone_for_parent() -> int:
    """Start a process that is a child of this one's parent, and waits; return its pid."""
    stack = ctypes.create_string_buffer(STACK_BYTES)
    pid: int = libc().clone(libc().pause, ctypes.byref(stack, STACK_BYTES), CLONE_PARENT | signal.SIGCHLD, None)
    return pid


def compute(cpu_s: float) -> None:
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass


def take_three_signals() -> None:
    """Wait in one C call for three signals. Python handles them when the call is over."""
    numbers = (ctypes.c_int * 3)(3, 2, 1)
    pause = ctypes.cast(libc().pause, ctypes.c_void_p)
    libc().qsort.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    libc().qsort(numbers, 3, 4, pause)  # compares two with pause(2), which returns when a signal has come
