"""SIGKILL at every named point of a job's life, to its worker, its zygote, its guard: what becomes of the job, and that
nothing is left and the next job runs. What becomes of it all when the owner is killed is in `test_owner_points`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from job_runs import (
    END_S,
    HOSTILE_POOL,
    NAMED_POINTS,
    Story,
    follow,
    hostile_pool,
    pool_of,
    run,
    submit,
    wait_for_tokens,
)
from support import processes
from support.engines import certificate_so_far, pid_of
from support.job_helpers import process_name_of
from support.supervisor_fixture import PROOFS, StartSupervisor
from support.waiting import Pending, until, until_async

from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor

COLD = """
import os, time
from killable import job, preload

@preload(each_worker=True)
def gate() -> None:
    while os.path.exists({gate!r}):
        time.sleep(0.002)

@job
def cold_says() -> str:
    return "said"
"""
WARM = """
from support.job_helpers import announce_entry
from killable import Context, job
from pathlib import Path

@job
def warm_waits(ctx: Context, gate: str) -> str:
    announce_entry(ctx)
    while not Path(gate).exists():
        ctx.sleep(0.002)
    return "opened"

@job
def warm_says() -> str:
    return "said"
"""


class House:
    """A supervisor with a pool that has no spares, one that reuses its workers, and the hostile one."""

    def __init__(self, server: Supervisor, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.gate = folder / "gate"
        self.pool = "hostile"
        """Of the job under way."""

    async def zygote(self) -> int:
        pid = (await pool_of(self.server, self.pool)).zygote_pid
        assert pid is not None
        return pid

    async def worker(self, state: str) -> int:
        """Wait for the one worker of the pool in that state."""

        async def alone() -> int | Pending:
            found = [each for each in await self.server.workers() if each.pool == self.pool and each.pid is not None]
            there = [each.pid for each in found if each.state == state]
            return (len(there) == 1 and there[0]) or Pending(found)

        return await until_async(alone, f"one worker of {self.pool} is {state}")

    async def fork_asked_for(self) -> None:
        """Wait until the pool has a worker of which it knows no process yet."""

        async def asked() -> bool | Pending:
            workers = await self.server.workers()
            return [each.pid for each in workers if each.pool == self.pool] == [None] or Pending(workers)

        await until_async(asked, f"{self.pool} has asked for a worker")

    async def kill(self, victim: str, worker: int, zygote: int) -> None:
        """Without a turn of the loop before the signal."""
        seen = processes.read_process(zygote)
        assert seen is not None
        os.kill({"worker": worker, "zygote": zygote, "guard": seen.parent}[victim], signal.SIGKILL)
        if victim == "worker" and seen.state == "T":
            os.kill(zygote, signal.SIGCONT)


def halt(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: (seen := processes.read_process(pid)) and seen.state == "T", "it is stopped")


def dead(pid: int) -> None:
    """Wait for the end of a worker without a turn of the loop, in which one that is ready would be given a job."""
    until(
        lambda: (seen := processes.read_process(pid)) is None or seen.state == "Z" or Pending(seen),
        "the worker is dead",
    )


async def phase(server: Supervisor, job_id: str, name: str) -> None:
    """Wait until an ending has come to this phase."""

    async def is_there() -> bool | Pending:
        certificate = await certificate_so_far(server, job_id)
        return name in certificate or Pending(certificate)

    await until_async(is_there, f"{job_id} is {name}")


# ── the points: each brings a job there and kills; it returns the job ──


async def before_ready(house: House, victim: str) -> str:
    house.pool = "cold"
    house.gate.touch()
    job_id = await submit(house.server, "cold_says")
    worker = await house.worker("spawning")
    await house.kill(victim, worker, await house.zygote())
    dead(worker)
    house.gate.unlink()
    return job_id


async def forked_and_not_told(house: House, victim: str) -> str:
    house.pool = "cold"
    zygote = await house.zygote()
    halt(zygote)
    job_id = await submit(house.server, "cold_says")
    await house.fork_asked_for()
    os.kill(zygote, signal.SIGCONT)  # and the loop does not turn
    (worker,) = until(lambda: processes.descendants(zygote), "the worker is forked")
    await house.kill(victim, worker.pid, zygote)
    dead(worker.pid)
    return job_id


async def run_is_sent(house: House, victim: str) -> str:
    worker, zygote = await house.worker("idle"), await house.zygote()
    halt(worker)
    job_id = await submit(house.server, "loop_python")
    assert await pid_of(house.server, job_id) == worker
    await house.kill(victim, worker, zygote)
    return job_id


async def entered(house: House, victim: str) -> str:
    job_id = await submit(house.server, "loop_python")
    await wait_for_tokens(house.server, job_id)
    await house.kill(victim, await house.worker("busy"), await house.zygote())
    return job_id


async def in_mid_stream(house: House, victim: str) -> str:
    job_id = await submit(house.server, "counts_for_ever")
    await wait_for_tokens(house.server, job_id, 100)
    await house.kill(victim, await house.worker("busy"), await house.zygote())
    return job_id


async def stop_is_sent(house: House, victim: str) -> str:
    job_id = await submit(house.server, "blocks_term")
    await wait_for_tokens(house.server, job_id)
    worker, zygote = await house.worker("busy"), await house.zygote()
    await house.server.cancel(job_id, wait_s=0)
    await phase(house.server, job_id, "requested")
    await house.kill(victim, worker, zygote)
    return job_id


async def in_the_grace(house: House, victim: str) -> str:
    job_id = await submit(house.server, "cleans_slowly", cpu_s=60, limits={"grace_s": 60})
    await wait_for_tokens(house.server, job_id)
    worker, zygote = await house.worker("busy"), await house.zygote()
    await house.server.cancel(job_id, wait_s=0)
    await phase(house.server, job_id, "acknowledged")
    await house.kill(victim, worker, zygote)
    return job_id


async def closed_and_not_read(house: House, victim: str) -> str:
    house.pool = "warm"
    gate = house.folder / f"open {victim}"
    job_id = await submit(house.server, "warm_waits", gate=str(gate))
    await wait_for_tokens(house.server, job_id)
    worker, zygote = await house.worker("busy"), await house.zygote()
    gate.touch()
    until(
        lambda: processes.unread_bytes(worker, os.getpid()) or Pending(processes.read_process(worker)),
        "it has closed its attempt",
    )
    await house.kill(victim, worker, zygote)
    dead(worker)  # else the attempt ends before it: it says that it can go on
    return job_id


async def in_the_sweep(house: House, victim: str) -> str:
    gate = house.folder / f"sweep {victim}"
    job_id = await submit(house.server, "waits_for", gate=str(gate))
    await wait_for_tokens(house.server, job_id)
    worker, zygote = await house.worker("busy"), await house.zygote()
    halt(zygote)
    gate.touch()
    dead(worker)  # without a turn of the loop: 20 ms after the exit the zygote is asked for it, and goes on
    await house.kill(victim, worker, zygote)
    return job_id


LOST = {"worker": "killed_externally", "zygote": "worker_lost", "guard": "worker_lost"}
CANCELLED = dict.fromkeys(LOST, "cancelled")
COMPLETED = dict.fromkeys(LOST, "")
POINTS: dict[Callable[[House, str], Awaitable[str]], dict[str, str]] = {
    before_ready: COMPLETED,
    forked_and_not_told: COMPLETED,
    run_is_sent: LOST,
    entered: LOST,
    in_mid_stream: LOST,
    stop_is_sent: CANCELLED,
    in_the_grace: CANCELLED,
    closed_and_not_read: COMPLETED,
    in_the_sweep: COMPLETED,
}
"""By victim: the code with which the job ends; none when it completes."""


def proof_of(point: Callable[[House, str], Awaitable[str]], victim: str, proof: str) -> str | None:
    """Return what its certificate has to name as the proof that nothing of the job is left."""
    if point is closed_and_not_read:
        return "descendants"  # of a worker that can go on: it has no child, and is the subreaper of all that it started
    if victim == "guard" and point not in (before_ready, forked_and_not_told):  # there another worker runs the job
        return {"cgroup+descendants": "cgroup", "descendants": None}[proof]  # what it had started went to init
    return proof


async def ended(server: Supervisor, job_id: str, victim: str) -> Story:
    """Follow a job to its end. Without a guard its dead are reaped by init, in a moment."""
    if victim != "guard":
        return await follow(server, job_id)
    story = Story(job_id)
    async for batch in server.events(job_id):
        story.events += batch
    return story


def check(point: str, story: Story, code: str, proof: str | None) -> None:
    assert story.code == code, (point, story.end)
    assert story.certificate.get("proof") == proof, (point, story.certificate)
    if point.startswith("in_mid_stream"):
        assert story.tokens == [str(number) for number in range(len(story.tokens))] and len(story.tokens) >= 100


async def whole(server: Supervisor) -> bool | Pending:
    ready = await server.ready()
    return ready == (True, []) or Pending(ready)


# What an exec'd worker has of its own is its way to the job, and whether its parent's end still reaches it behind its
# exec; in what follows it is as a forked one, and takes longer. A guard that dies takes the zygote along.
AS_EXECED = (before_ready, forked_and_not_told, entered)
WHOEVER = [("fork", victim, proof) for proof in PROOFS for victim in ("worker", "zygote", "guard")]
WHOEVER += [("spawn", victim, "descendants") for victim in ("worker", "guard")]


@pytest.mark.row("D20")
@pytest.mark.parametrize(("start_method", "victim", "proof"), WHOEVER)
async def test_whoever_is_killed_whenever(
    start_method: str, victim: str, proof: str, tmp_path: Path, supervisor: StartSupervisor
) -> None:
    (tmp_path / "cold.py").write_text(COLD.format(gate=str(tmp_path / "gate")))
    (tmp_path / "warm.py").write_text(WARM)
    one: dict[str, Any] = {"workers": 1, "spares": 0, "start_method": start_method}
    server = await supervisor(
        hostile_pool(workers=1, start_method=start_method),
        PoolSpec("cold", (str(tmp_path / "cold.py"),), **one),
        PoolSpec(
            "warm", (str(tmp_path / "warm.py"),), jobs_per_worker_max=0, folder=str(HOSTILE_POOL["folder"]), **one
        ),
        proof=proof,
    )
    assert tuple(point.__name__ for point in POINTS) == NAMED_POINTS
    points = POINTS if start_method == "fork" else {point: POINTS[point] for point in AS_EXECED}
    for point, expected in points.items():
        house = House(server, tmp_path)
        async with asyncio.timeout(END_S):
            job_id = await point(house, victim)
            story = await ended(server, job_id, victim)
        name = f"{point.__name__} {victim}"
        check(name, story, expected[victim], proof_of(point, victim, proof))
        assert [seen for seen in processes.named(process_name_of(job_id)) if seen.state != "Z"] == [], name
        following = {"cold": "cold_says", "warm": "warm_says", "hostile": "echoes"}[house.pool]
        after = await run(server, following)
        assert after.state == "completed", (name, after.end)
        await until_async(lambda: whole(server), f"after {name} all pools are ready")
    ends = [pool.zygote_restarts for pool in await server.pools()]
    assert sum(ends) == (0 if victim == "worker" else len(points))
