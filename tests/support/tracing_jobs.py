"""Jobs that trace workers (ptrace(2)), as a debugger does that a job has started, or a hostile job."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from killable import Context, job

_SEIZE, _TRACE_EXIT = 0x4206, 0x40
_SET_PTRACER, _ANY = 0x59616D61, -1


def seize(pid: int, *, stops_at_exit: bool = False) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    if libc.ptrace(_SEIZE, pid, 0, _TRACE_EXIT if stops_at_exit else 0) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


@job
def is_traced_by_its_child(ctx: Context, stops_at_exit: bool = False, is_detached: bool = True) -> None:
    """Have a child in a session of its own trace this process; emit the child's pid."""
    ctypes.CDLL(None).prctl(_SET_PTRACER, ctypes.c_long(_ANY), 0, 0, 0)  # where Yama asks for it
    worker = os.getpid()
    says, hears = os.pipe()[::-1]
    child = os.fork()
    if child == 0:
        if is_detached:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        seize(worker, stops_at_exit=stops_at_exit)
        os.write(says, b"x")
        while True:
            time.sleep(1)
    os.read(hears, 1)
    ctx.emit(str(child))
    while True:
        time.sleep(1)


@job
def has_an_orphan(ctx: Context) -> None:
    """Have a process whose parent has ended; emit its pid."""
    says, hears = os.pipe()[::-1]
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            ctypes.CDLL(None).prctl(_SET_PTRACER, ctypes.c_long(_ANY), 0, 0, 0)
            os.write(says, f"{os.getpid()}".encode())
            while True:
                time.sleep(1)
        os._exit(0)
    os.wait()
    ctx.emit(os.read(hears, 20).decode())
    while True:
        time.sleep(1)


@job
def traces(ctx: Context, pid: int, stops_at_exit: bool = False) -> None:
    """Trace another process, and let it be."""
    seize(pid, stops_at_exit=stops_at_exit)
    ctx.emit(str(pid))
    while True:
        time.sleep(1)


@job
def traces_and_kills_the_guard(ctx: Context) -> None:
    """Leave the guard a zombie that its parent cannot reap."""
    with open(f"/proc/{os.getppid()}/stat") as file:
        guard = int(file.read().rpartition(")")[2].split()[1])
    seize(guard)
    ctx.emit(str(guard))
    os.kill(guard, signal.SIGKILL)
    while True:
        time.sleep(1)
