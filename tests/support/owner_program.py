"""A program that owns a supervisor: `python owner_program.py JSON`. The members of the JSON object:

    settings    Settings of the supervisor (proof, ...)
    pools       {name: members of its PoolSpec}
    jobs        [[type, input, number of tokens to wait for, phase], ...]; with a phase the job is cancelled, and the
                program waits until its certificate has that phase
    copy        true: the program forks before it prints its line; the fork holds all of its descriptors
    last        jobs that are submitted once every pool has all its spares; in the same turn of the loop the program
                prints its line and stops itself, and reads nothing more
    halted      a pool whose idle workers are stopped before that
    host        true: the program blocks SIGTERM, ignores SIGCHLD and SIGINT, and has umask 077
    freeze      true: the program stops itself (SIGSTOP) when its guards are started and nothing of theirs is read

It starts the supervisor, submits the jobs, and waits until each has emitted its number of tokens. Then it prints one
line of JSON with the records of `jobs`, `last`, `pools` and, from before the last ones, `workers`. It ends when it is
killed or when its stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from killable.supervisor.linux import zygote_host
from killable.supervisor.models import Submission
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor


def change_signal_settings() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)


def has_children() -> bool:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return bool(file.read())


async def wait_for_tokens(supervisor: Supervisor, job_id: str, tokens: int) -> None:
    """Wait until a job has emitted that many tokens, or has ended."""
    async for _ in supervisor.events(job_id):
        if (await supervisor.get(job_id)).tokens >= tokens:
            return


async def cancel_and_wait(supervisor: Supervisor, job_id: str, phase: str) -> None:
    """Cancel a job, and wait for a phase of its end."""
    await supervisor.cancel(job_id, wait_s=0)
    while phase not in ((await supervisor.get(job_id)).certificate or {}):
        await asyncio.sleep(0.002)


async def wait_for_spares(supervisor: Supervisor) -> None:
    """Wait until the spares of all pools are warm."""
    while not all(pool.idle >= pool.spares for pool in await supervisor.pools()):
        await asyncio.sleep(0.002)


async def stop_idle_workers(supervisor: Supervisor, pool: str) -> None:
    """Stop the idle workers of a pool, and wait until they are."""
    for worker in await supervisor.workers():
        if worker.pool == pool and worker.state == "idle" and worker.pid is not None:
            os.kill(worker.pid, signal.SIGSTOP)
            while Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                await asyncio.sleep(0.002)


async def records_of(supervisor: Supervisor, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return records as JSON has them. No turn of the loop passes."""
    records = [(await supervisor.get(job_id))._asdict() for job_id in ids]
    for members in records:
        members["result"] = json.loads(members["result"]) if members["result"] else None
        members["partial"] = None
    return records


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
    halted: str = "",
) -> None:
    if last is not None:
        zygote_host.REMIND_S = 60.0  # it stands still in a moment: a zygote that a job has stopped stays so
    logging.getLogger("killable").addHandler(logging.NullHandler())  # its stderr may have no reader
    if host:
        change_signal_settings()
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
    for type, input, tokens, *phase in jobs:
        if last:
            await wait_for_spares(supervisor)  # so that nothing is left to wait for behind the last one
        record = await supervisor.submit(Submission(type, json.dumps(input).encode(), limits={"grace_s": 60.0}))
        ids.append(record.job_id)
        if tokens:
            await wait_for_tokens(supervisor, record.job_id, tokens)
        if phase:
            await cancel_and_wait(supervisor, record.job_id, *phase)
    if last:
        await wait_for_spares(supervisor)
    await stop_idle_workers(supervisor, halted)
    report: dict[str, Any] = {"workers": [worker._asdict() for worker in await supervisor.workers()]}
    if copy:
        report["copy"] = fork_copy()
    # From here to the stop nothing is read.
    last_ids = [
        (await supervisor.submit(Submission(type, json.dumps(input).encode()))).job_id for type, input in last or ()
    ]
    report |= {"jobs": await records_of(supervisor, ids), "last": await records_of(supervisor, last_ids)}
    report["pools"] = [pool._asdict() for pool in await supervisor.pools()]
    print(json.dumps(report), flush=True)
    if last is not None:
        os.kill(os.getpid(), signal.SIGSTOP)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await starting
    await supervisor.close(grace_s=0)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
