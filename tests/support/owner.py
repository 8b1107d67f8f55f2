"""A small program that owns a supervisor: `python owner.py JSON`, where JSON has

    settings    Settings of the supervisor (proof, ...)
    pools       {name: members of its PoolSpec}
    jobs        [[type, input, tokens to wait for, true to cancel it then], ...]
    copy        true: the program has forked before it says anything, and the copy holds all of its descriptors
    last        jobs that are submitted after its line, in one turn and with a warm worker for the first; then it stops
                itself and reads nothing more
    host        true: the program blocks SIGTERM, ignores SIGCHLD and SIGINT, has umask 077
    freeze      true: the program stops itself (SIGSTOP) once its guards are started, and has read nothing of theirs

It starts the supervisor, submits the jobs, waits until each has said so many tokens, prints one line of JSON
(`{job_id: record}` and what it knows of its pools), and then stays until it is killed or its stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from killable.supervisor.job import Submission
from killable.supervisor.service import Supervisor
from killable.supervisor.settings import PoolSpec, Settings


def be_a_hostile_host() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)


def has_children() -> bool:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return bool(file.read())


async def say(supervisor: Supervisor, job_id: str, tokens: int) -> None:
    """Wait until a job has said so many tokens, or has ended."""
    async for _ in supervisor.events(job_id):
        if (await supervisor.get(job_id)).tokens >= tokens:
            return


def fork_copy() -> int:
    """Fork a process that only stays; return its pid."""
    pid = os.fork()
    while pid == 0:
        signal.pause()
    return pid


async def main(
    settings: dict[str, Any],
    pools: dict[str, Any],
    jobs: list[Any],
    host: bool = False,
    freeze: bool = False,
    copy: bool = False,
    last: list[Any] | None = None,
) -> None:
    logging.getLogger("killable").addHandler(logging.NullHandler())  # nobody may read what it says on stderr
    if host:
        be_a_hostile_host()
    specs = tuple(PoolSpec(name, tuple(members.pop("modules")), **members) for name, members in pools.items())
    supervisor = Supervisor(Settings(pools=specs, **settings))
    starting = asyncio.create_task(supervisor.start())
    ids = []
    if freeze:
        while not has_children():
            await asyncio.sleep(0)  # its guards are started in one turn, and take longer than one to say something
        os.kill(os.getpid(), signal.SIGSTOP)
    if jobs:
        await starting
    for type, input, tokens, *cancelled in jobs:
        record = await supervisor.submit(Submission(type, json.dumps(input).encode()))
        ids.append(record.job_id)
        if tokens:
            await say(supervisor, record.job_id, tokens)
        if any(cancelled):
            await supervisor.cancel(record.job_id, wait_s=0)
    shown = [asdict(await supervisor.get(job_id)) for job_id in ids]
    for members in shown:
        members["result"] = json.loads(members["result"]) if members["result"] else None
        members["partial"] = None
    said: dict[str, Any] = {"jobs": shown, "pools": [asdict(pool) for pool in await supervisor.pools()]}
    if copy:
        said["copy"] = fork_copy()
    print(json.dumps(said), flush=True)
    if last is not None:
        while last and not any(pool.idle for pool in await supervisor.pools()):
            await asyncio.sleep(0.002)
        for type, input in last:
            await supervisor.submit(Submission(type, json.dumps(input).encode()))
        os.kill(os.getpid(), signal.SIGSTOP)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await starting
    await supervisor.close(grace_s=0)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
