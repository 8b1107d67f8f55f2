"""Job types that behave well, in ways that are easily mistaken for misbehaviour.

Runs in: worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from support.job_helpers import announce_entry, clone_for_parent, compute, fork_one, libc, name_process

from killable import Context, Stopping, job


@job
def returns_in_grace(ctx: Context) -> str:
    """Return a value when told to end."""
    try:
        announce_entry(ctx)
        while True:
            pass
    except Stopping as stopping:
        return f"{stopping.cause} by {stopping.by}: {stopping.reason}"


@job
def cleans_slowly(ctx: Context, cpu_s: float) -> Iterator[str]:
    """Clean up for a while when told to end, computing in Python."""
    name_process(ctx)
    try:
        yield "in"
        while True:
            pass
    except Stopping:
        compute(cpu_s)
        yield "cleaned"
        raise


@job
def works(ctx: Context, s: float) -> str:
    """Work for so long, mostly waiting, and return; say when it began."""
    name_process(ctx)
    began = time.monotonic()
    ctx.emit(began)
    while time.monotonic() < began + s:
        sum(range(1000))
        ctx.sleep(0.0005)
    return "worked"


@job
def echoes(ctx: Context, text: str = "") -> dict[str, Any]:
    """Return the input, and who ran it."""
    name_process(ctx)
    return {"text": text, "pid": os.getpid()}


@job
def names_correlation(ctx: Context) -> dict[str, Any]:
    """Return what the job, and a child of it, are told of the caller's correlation id."""
    import subprocess

    child = subprocess.run(["printenv", "KILLABLE_CORRELATION_ID"], capture_output=True, text=True)
    return {"context": ctx.correlation_id, "child": child.stdout.strip(), "pid": os.getpid()}


@job
def tells(ctx: Context, name: str, lines: int) -> Iterator[str]:
    """Yield and print lines that bear one's name."""
    name_process(ctx)
    for number in range(lines):
        yield f"{name} {number}"
        print(f"{name} {number}", flush=True)


@job
def waits_for(ctx: Context, gate: str) -> str:
    """Return when a file is there."""
    announce_entry(ctx)
    while not os.path.exists(gate):
        ctx.sleep(0.002)
    return "opened"


@job
def touches_tmp(ctx: Context, then: str = "return") -> str:
    """Leave a file in the job's private directory; return, loop or die."""
    name_process(ctx)
    (ctx.tmp / "left").write_text("left")
    ctx.emit(str(ctx.tmp))
    while then == "loop":
        pass
    if then == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    return str(ctx.tmp)


@job
def leaves_what_takes_for_ever(ctx: Context) -> str:
    """Leave a private directory that this process will never have removed."""
    name_process(ctx)
    (ctx.tmp / "left").touch()
    os.unlink = os.rmdir = lambda *_args, **_options: time.sleep(3600)  # type: ignore[assignment]
    return str(ctx.tmp)


@job
def says_much(ctx: Context, tokens: int) -> int:
    """Say more at once than is read in one turn of the loop, less than a pipe holds; return."""
    name_process(ctx)
    for _ in range(tokens):
        ctx.emit("token")
    return tokens


@job
def changes_process(ctx: Context, what: str) -> int:
    """Change something of the process that the next job would find changed; return the pid."""
    name_process(ctx)
    match what:
        case "cwd":
            os.chdir("/")
        case "umask":
            os.umask(0o077)
        case "mask":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        case "handler":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        case "handler of another signal":
            signal.signal(signal.SIGWINCH, signal.SIG_IGN)
        case "handler put back":
            signal.signal(signal.SIGWINCH, signal.signal(signal.SIGWINCH, signal.SIG_IGN))
        case "wakeup":
            signal.set_wakeup_fd(-1)
        case "timer":
            signal.setitimer(signal.ITIMER_REAL, 3600)
        case "thread":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        case "child":
            fork_one(new_session=False)
        case "daemon":
            fork_one(new_session=True, twice=True)
        case "child of its parent":
            clone_for_parent()
        case "nothing":
            pass
    return os.getpid()


@job
def describes_process(ctx: Context) -> dict[str, Any]:
    """Return what this process has been made of."""
    name_process(ctx)
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    with open("/proc/self/cgroup") as file:
        cgroup = file.read()
    death_signal = ctypes.c_int()
    libc().prctl(2, ctypes.byref(death_signal))  # PR_GET_PDEATHSIG
    umask = os.umask(0)
    os.umask(umask)
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "group": os.getpgrp(),
        "umask": umask,
        "nice": os.nice(0),
        "processors": sorted(os.sched_getaffinity(0)),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "death_signal": death_signal.value,
        "blocked": status["SigBlk"].strip(),
        "ignored": status["SigIgn"].strip(),
        "no_new_privs": status["NoNewPrivs"].strip(),
        "threads": int(status["Threads"]),
        "descriptors": descriptors,
        "environment": {key: value for key, value in os.environ.items() if key.endswith("_THREADS")},
        "instance": os.environ.get("KILLABLE_INSTANCE", ""),
        "cgroup": cgroup,
        "stdin": os.read(0, 10).decode(),
        "parsed": json.dumps("ok"),
    }


@job
def works_ordinarily(ctx: Context, on: str) -> None:
    """Do what programs do, over and over; say when `finally` ran."""
    import asyncio
    import tempfile

    async def talk() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(2)

        async def speak() -> None:
            while True:
                await queue.put(len(json.dumps(list(range(50)))))

        async with asyncio.TaskGroup() as group:
            group.create_task(speak())
            group.create_task(speak())
            while True:
                await queue.get()

    try:
        announce_entry(ctx)
        while True:
            match on:
                case "json":
                    json.loads(json.dumps({str(number): [number, {"a": None}] for number in range(200)}))
                case "sorting":
                    sorted(range(2000), key=lambda number: -number % 17)
                case "imports":
                    for name in ("colorsys", "this", "sched", "cmd", "shlex"):
                        sys.modules.pop(name, None)
                        with contextlib.redirect_stdout(io.StringIO()):
                            importlib.import_module(name)
                case "counting":
                    number = 0
                    while number < 10**6:
                        number += 1
                case "asyncio":
                    asyncio.run(talk())
                case "files":
                    with tempfile.TemporaryFile("w+") as file:
                        print(*range(1000), file=file)
                        file.seek(0)
                        file.read()
    finally:
        ctx.emit("finally")


@job
def counts_between_yields(ctx: Context) -> Iterator[str]:
    """Be in a loop with a condition nearly all the time, and clean up in the same function."""
    name_process(ctx)
    number = 0
    try:
        yield "in"
        while number < 10**12:
            number += 1
            if number % 10**7 == 0:
                yield str(number)
    finally:
        yield "finally"


@job
def holds_open(ctx: Context) -> None:
    """Be inside a context manager nearly all the time."""
    with contextlib.ExitStack() as stack:
        stack.callback(ctx.emit, "left")
        ctx.emit("in")
        while True:
            pass
