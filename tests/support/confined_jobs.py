"""A job that tries what a sandbox may forbid, and tells what came of it.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from killable import Context, job

_PTRACE_SEIZE, _IO_URING_SETUP, _LANDLOCK_ABI = 0x4206, 425, 444
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(os.uname().machine, -1)


def _call(number: int, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _trace(pid: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_SEIZE, int(pid), None, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _connect(port: str) -> None:
    socket.create_connection(("127.0.0.1", int(port)), timeout=60).close()


def _send_datagram(path: str) -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with ours, theirs:
        ours.sendto(b"hello", path)


def _run_loop() -> None:
    import asyncio

    asyncio.run(asyncio.sleep(0))


def _attach(segment: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    if libc.shmat(int(segment), None, 0) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _io_uring() -> None:
    _call(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120))


OPERATIONS: dict[str, Callable[..., Any]] = {
    "connect": _connect,
    "udp": lambda: socket.socket(type=socket.SOCK_DGRAM).close(),
    "unix": lambda: socket.socket(socket.AF_UNIX).close(),
    "datagram": _send_datagram,
    "other_pair": lambda: socket.socketpair(socket.AF_INET),
    "pair": lambda: [one.close() for one in socket.socketpair()],
    "loop": _run_loop,
    "io_uring": _io_uring,
    "trace": _trace,
    "signal": lambda pid: os.kill(int(pid), 0),
    "limit": lambda pid: resource.prlimit(int(pid), resource.RLIMIT_NOFILE),
    "limit itself": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "schedule": lambda pid: os.sched_setscheduler(int(pid), os.SCHED_OTHER, os.sched_param(0)),
    "schedule itself": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "priority": lambda pid: os.setpriority(os.PRIO_PROCESS, int(pid), os.getpriority(os.PRIO_PROCESS, int(pid))),
    "all priorities": lambda: os.setpriority(os.PRIO_USER, 2_000_000_000, 0),
    "priority itself": lambda: os.nice(1),
    "input and output": lambda pid: _call(_IOPRIO_SET, 1, int(pid), 0),
    "input and output itself": lambda: _call(_IOPRIO_SET, 1, 0, 0),
    "read": lambda path: Path(path).read_bytes(),
    "list": os.listdir,
    "write": lambda path: Path(path).write_text("new"),
    "append": lambda path: Path(path).open("a").close(),
    "truncate": lambda path: os.truncate(path, 0),
    "remove": os.unlink,
    "rename": os.rename,
    "link": os.link,
    "symlink": lambda path: os.symlink("/", path),
    "mkdir": os.mkdir,
    "temporary": lambda: tempfile.NamedTemporaryFile().close(),
    "exec": lambda path: subprocess.run([path], check=True),
    "segment": lambda name: SharedMemory(name).close(),
    "system v": _attach,
    "import": lambda name: __import__(name),
}


def attempt(name: str, *arguments: str) -> str:
    try:
        OPERATIONS[name](*arguments)
    except OSError as error:
        return type(error).__name__
    return "done"


@job
def tries(ctx: Context, operations: list[list[str]], how: str = "itself") -> dict[str, str]:
    """Try each operation, `itself` or in a process that was `forked` or `execed`; return what came of it, by name."""
    if how == "execed":
        program = (
            f"import sys; sys.path += {sys.path!r}\n"
            "from support.confined_jobs import attempt\n"
            "print(attempt(*sys.argv[1:]))"
        )
        return {
            operation[0]: subprocess.run(
                [sys.executable, "-c", program, *operation], capture_output=True, text=True, check=True
            ).stdout.strip()
            for operation in operations
        }
    if how == "forked":
        return {operation[0]: _in_a_fork(operation) for operation in operations}
    (ctx.tmp / "own").write_text("mine")
    return {operation[0]: attempt(*operation) for operation in operations}


def _in_a_fork(operation: list[str]) -> str:
    readable, writable = os.pipe()
    if os.fork() == 0:
        os.write(writable, attempt(*operation).encode())
        os._exit(0)
    os.close(writable)
    os.wait()
    with open(readable) as said:
        return said.read()


@job
def leaves_private_memory() -> Iterator[str]:
    """Leave a file in /dev/shm that nobody knows of, and a System V segment of a child that has ended."""
    (Path("/dev/shm") / "killable-test-left").write_bytes(b"left")
    if os.fork() == 0:
        os._exit(ctypes.CDLL(None).shmget(0x6B6C, 1000, 0o1600) < 0)
    _, status = os.wait()
    yield f"{status} {sorted(os.listdir('/dev/shm'))}"
    time.sleep(3600)


@job
def capabilities() -> str:
    """Return the effective capabilities of the worker."""
    return Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
