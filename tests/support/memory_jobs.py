"""Job types that leave shared memory and semaphores behind. Each emits the names of all that it has made.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from killable import Context, job
from killable.workers.runtime import named_memory_hooks

_kept: list[Any] = []
"""So that no finalizer tidies up."""


def make_segment() -> str:
    segment = SharedMemory(create=True, size=100_000)
    segment.buf[:3] = b"abc"
    _kept.append(segment)
    return segment.name


def make_system_v_segment() -> int:
    shmget = ctypes.CDLL(None).shmget
    shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    made: int = shmget(0, 100_000, 0o1600)  # IPC_PRIVATE; IPC_CREAT and 0600
    assert made >= 0
    return made


def make_in_child(results: Any) -> None:
    results.send((make_segment(), make_system_v_segment()))
    while True:
        time.sleep(3600)


def make_all(start_method: str) -> tuple[list[str], list[int]]:
    """Make objects of each kind, here and in a child; return the names in /dev/shm and the System V ids."""
    context: Any = multiprocessing.get_context(start_method)
    receiving, sending = context.Pipe()
    context.Process(target=make_in_child, args=(sending,)).start()
    of_child, segment_of_child = receiving.recv()
    semaphore: Any = multiprocessing.get_context("spawn").Semaphore()
    _kept.append(semaphore)
    names = [make_segment(), of_child, "sem." + semaphore._semlock.name.removeprefix("/")]
    return names, [make_system_v_segment(), segment_of_child]


@job
def leaves_memory(ctx: Context, end: str, attach: str, start_method: str = "fork") -> None:
    """Leave objects of each kind and end: `returns`, `raises`, `crashes`, or waits to be stopped. `attach` is a segment
    of another program, which is only used.
    """
    _kept.append(SharedMemory(attach))
    ctx.emit(make_all(start_method))
    if end == "raises":
        raise ValueError("for the test")
    if end == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    while end == "waits":
        time.sleep(3600)


@job
def tidies_up(size: int = 100_000) -> int:
    """Use shared memory as it should be used; return the pid."""
    segment = SharedMemory(create=True, size=size)
    segment.close()
    segment.unlink()
    return os.getpid()


@job
def churns(prefix: str) -> Iterator[str]:
    """Make and remove segments for ever."""
    number = 0
    while True:
        segment = SharedMemory(f"{prefix}-{number}", create=True, size=10_000)
        if number == 20:
            yield segment.name
        segment.close()
        segment.unlink()
        number += 1


@job
def writes_into_the_log(text: str, leaves: bool = False) -> str:
    """Write lines into the log of names, in Latin-1; then leave a segment that is in the log behind them, if asked to.
    Return its name.
    """
    path = Path(named_memory_hooks.names._path)
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(text.encode("latin-1"))
    return make_segment() if leaves else ""
