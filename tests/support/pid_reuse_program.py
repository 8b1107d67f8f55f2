"""A program for a pid namespace of its own, in which it can choose the next pid (ns_last_pid, proc(5)).

It kills and reaps a worker, gives the pid to an unrelated process before the supervisor has noticed, and then makes
the supervisor do everything that could signal the worker. It prints one line of JSON: for each way, whether the
unrelated process has survived.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from support import processes
from support.waiting import Pending, until, until_async

from killable.supervisor import clock
from killable.supervisor.linux import env_marker
from killable.supervisor.linux.instance_id import InstanceId
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor


def fork_with(pid: int) -> bool:
    """Fork a stranger, leader of a session and group, with this number; return whether it was to be had."""
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))
    made = os.fork()
    if made == 0:
        os.setsid()
        while True:
            signal.pause()
    if made == pid:
        until(lambda: os.getpgid(pid) == pid, "it leads a group")
        return True
    os.kill(made, signal.SIGKILL)
    os.waitpid(made, 0)
    return False


def replace(pid: int) -> None:
    """Give the number of a process that is gone to a stranger.

    Someone else may fork in between, or a child of the dead one be still in its session, which holds the number.
    """
    until(lambda: fork_with(pid), f"a stranger has {pid}")


def gone(pid: int) -> None:
    """Wait until it is reaped, without a turn of the event loop."""
    until(lambda: processes.read_process(pid) is None or Pending(processes.read_process(pid)), f"{pid} is reaped")


def ended(pid: int) -> bool:
    """Tell whether a stranger has ended; it is ended then."""
    dead = os.waitpid(pid, os.WNOHANG)[0] == pid
    if not dead:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return dead


class Case:
    """A supervisor, and a worker of its with a running job."""

    def __init__(self, server: Supervisor) -> None:
        self.server = server
        self.job_id = ""
        self.pid = 0

    async def begin(self, **limits: float) -> None:
        record = await self.server.submit(Submission("loop_python", b"{}", limits=limits))
        self.job_id = record.job_id
        async for _ in self.server.events(self.job_id):
            if (await self.server.get(self.job_id)).tokens:
                break
        self.pid = (await self.server.get(self.job_id)).pid or 0

    def swap(self, pid: int = 0) -> int:
        """Let a process die and be reaped, and a stranger have its number."""
        pid = pid or self.pid
        os.kill(pid, signal.SIGKILL)
        gone(pid)
        replace(pid)
        return pid

    async def whole(self) -> None:
        """Wait until all is as before the case."""

        async def idle() -> bool | Pending:
            (pool,) = await self.server.pools()
            return (pool.state, pool.idle, pool.busy, pool.quarantined) == ("ready", 1, 0, 0) or Pending(pool)

        await until_async(idle, "the pool is as before")


async def cancel(case: Case) -> int:
    await case.begin()
    pid = case.swap()
    await case.server.cancel(case.job_id, wait_s=0)  # SIGTERM, and SIGCONT if it is stopped
    return pid


async def cancel_at_once(case: Case) -> int:
    await case.begin()
    pid = case.swap()
    await case.server.cancel(case.job_id, grace_s=0, wait_s=0)
    return pid


async def kill_a_busy_worker(case: Case) -> int:
    await case.begin()
    worker_id = (await case.server.get(case.job_id)).worker_id
    pid = case.swap()
    assert worker_id is not None
    await case.server.kill_worker(worker_id, wait_s=0)
    return pid


async def kill_an_idle_worker(case: Case) -> int:
    (worker,) = [worker for worker in await case.server.workers() if worker.state == "idle"]
    assert worker.pid is not None
    pid = case.swap(worker.pid)
    await case.server.kill_worker(worker.worker_id, wait_s=0)
    return pid


async def deadline(case: Case) -> int:
    await case.begin(run_s=5.0, grace_s=0.0)
    over = time.monotonic() + 5.0
    pid = case.swap()
    until(lambda: time.monotonic() > over, "the deadline is over, and no timer has run")
    return pid


async def zygote(case: Case) -> int:
    (pool,) = await case.server.pools()
    assert pool.zygote_pid is not None
    pid = case.swap(pool.zygote_pid)

    async def replaced() -> bool | Pending:
        (now,) = await case.server.pools()
        return now.zygote_pid not in (None, pid) or Pending(now)

    await until_async(replaced, "there is another zygote")
    return pid


async def marker(case: Case) -> int:
    """The number changes hands between the look at the environment and the pidfd."""
    owner = InstanceId.of(os.getpid())
    assert owner is not None
    dead = InstanceId(owner.boot, owner.namespace, owner.pid, 0).marker("instance", "pool/1")
    orphan = subprocess.Popen(["sleep", "3600"], env={env_marker.MARKER: dead})
    open_pidfd = os.pidfd_open

    def late(pid: int, flags: int = 0) -> int:
        if pid == orphan.pid and orphan.returncode is None:
            orphan.kill()
            orphan.wait()
            replace(pid)
        return open_pidfd(pid, flags)

    os.pidfd_open = late
    try:
        swept, left = env_marker.kill_waves(env_marker.ownerless(), clock.monotonic() + 5)
    finally:
        os.pidfd_open = open_pidfd
    assert orphan.returncode == -signal.SIGKILL and not swept and not left
    return orphan.pid


async def bare_number(case: Case) -> int:
    """The control: what a signal to the number itself does."""
    await case.begin()
    pid = case.swap()
    os.kill(pid, signal.SIGKILL)
    until(lambda: (seen := processes.read_process(pid)) and seen.state == "Z", "the stranger is hit")
    return pid


async def is_pinned(case: Case) -> bool:
    """While a dead worker is not reaped nobody can have its number: then its group is killed, by number."""
    await case.begin()
    (pool,) = await case.server.pools()
    assert pool.zygote_pid is not None
    os.kill(pool.zygote_pid, signal.SIGSTOP)
    os.kill(case.pid, signal.SIGKILL)
    until(lambda: (seen := processes.read_process(case.pid)) and seen.state == "Z", "it is dead and not reaped")
    pinned = not any(fork_with(case.pid) for _ in range(3))
    os.kill(pool.zygote_pid, signal.SIGCONT)
    await case.server.wait(case.job_id)
    return pinned


WAYS: list[Callable[[Case], Awaitable[int]]] = [
    cancel, cancel_at_once, kill_a_busy_worker, kill_an_idle_worker, deadline, zygote, marker, bare_number,
]  # fmt: skip


@asynccontextmanager
async def supervisor(modules: str, folder: str, start_method: str) -> AsyncIterator[Supervisor]:
    pool = PoolSpec("hostile", (modules,), workers=1, spares=1, folder=folder, start_method=start_method)
    server = Supervisor(Settings(pools=(pool,)))
    await server.start()
    try:
        yield server
    finally:
        await server.close(grace_s=0)


async def main(modules: str, folder: str, start_method: str) -> None:
    lived: dict[str, bool] = {}
    async with supervisor(modules, folder, start_method) as server:
        for way in WAYS:
            case = Case(server)
            await case.whole()
            pid = await way(case)
            if case.job_id:
                await server.wait(case.job_id)
            await case.whole()  # whatever was still to come has come
            lived[way.__name__] = not ended(pid)
        case = Case(server)
        pinned = await is_pinned(case)
    print(json.dumps({"lived": lived, "pinned": pinned}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
