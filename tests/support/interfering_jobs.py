"""Hostile job types that lose exceptions, or change the process that they run in.

Runs in: worker.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from support.job_helpers import announce_entry, compute, fork_one, name_process

from killable import Context, job


def count(upto: int = 100) -> None:
    for _ in range(upto):
        pass


@job
def loops_in_callback(ctx: Context, of: str) -> None:
    """Compute nearly all the time in a function that other code calls; most lose what is raised in it."""
    import asyncio

    announce_entry(ctx)
    match of:
        case "a ctypes callback":
            callback = ctypes.CFUNCTYPE(None)(count)
            while True:
                callback()
        case "a gc callback":
            gc.callbacks.append(lambda phase, found: count())
            while True:
                gc.collect(0)
        case "a weakref callback":
            import weakref

            class Dying:
                pass

            while True:
                dying = Dying()
                reference = weakref.ref(dying, lambda reference: count())
                del dying, reference
        case "a slow unraisablehook":
            hook = sys.unraisablehook

            def tell_and_compute(unraisable: Any) -> None:
                hook(unraisable)
                compute(0.02)

            sys.unraisablehook = tell_and_compute
            callback = ctypes.CFUNCTYPE(None)(count)
            while True:
                callback()
                count()
        case "a child task":
            asyncio.run(_compute_in_a_task())
        case "a call_soon callback":
            asyncio.run(_compute_in_callbacks())


async def _compute_in_a_task() -> None:
    import asyncio

    async def child() -> None:
        while True:
            count(1000)
            await asyncio.sleep(0)

    await asyncio.gather(asyncio.create_task(child()))


async def _compute_in_callbacks() -> None:
    import asyncio

    loop = asyncio.get_running_loop()

    def again() -> None:
        count(1000)
        loop.call_soon(again)

    loop.call_soon(again)
    await asyncio.Event().wait()


@job
def changes_surroundings(ctx: Context) -> None:
    """Change the working directory, the environment and the umask, and leave it so."""
    name_process(ctx)
    os.chdir("/")
    os.environ["KILLABLE_LEFT_BEHIND"] = "yes"
    os.umask(0o077)


@job
def leaks_descriptors(ctx: Context, count: int = 0) -> None:
    """Open so many descriptors, or as many as there may be, and leave them open."""
    name_process(ctx)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    opened = 0
    while not count or opened < count:
        os.dup(0)
        opened += 1


def leave_group() -> None:
    """Move to the nearest group above its own that takes this process: at the top there is none, others may refuse."""
    from pathlib import PurePosixPath

    from support import cgroup_v2

    mount, own = cgroup_v2.mount_and_group()
    for above in PurePosixPath(own).parents:
        with suppress(OSError):
            (mount / above.relative_to("/") / "cgroup.procs").write_text("0")
            return


@job
def moves_to_another_cgroup(ctx: Context) -> None:
    """Leave the worker's group for one above it, with a daemon, and go on; say whether it is in another one now."""
    from support import cgroup_v2

    name_process(ctx)
    own = cgroup_v2.mount_and_group()
    leave_group()
    daemon = fork_one(new_session=True, twice=True)
    ctx.emit([daemon, cgroup_v2.mount_and_group() != own])
    while True:
        signal.pause()


@job
def looks_around(ctx: Context) -> dict[str, Any]:
    """Return what the next job after a hostile one must find as ever."""
    name_process(ctx)
    umask = os.umask(0)
    os.umask(umask)
    return {
        "cwd": os.getcwd(),
        "umask": umask,
        "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "term": getattr(signal.getsignal(signal.SIGTERM), "__qualname__", None),
        "threads": len(os.listdir("/proc/self/task")),
        "tmp": sorted(path.name for path in ctx.tmp.iterdir()),
    }
