"""The kernel refuses a fork for real (a group of the pids controller is full): the zygote's, and a job's own."""

from __future__ import annotations

import errno
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from job_runs import HOSTILE_POOL, follow, pool_of, run, stop, submit, wait_for_tokens
from support import cgroup_v1, processes
from support.engines import pool_with_workers, record_with_workers
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.pools.start_failures import FAILURES_MAX
from killable.supervisor.settings import PoolSpec
from killable.supervisor.supervisor import Supervisor

REFUSED = f"fork failed: {os.strerror(errno.EAGAIN)}"
ROOM = 12
"""Of the group, zygote and worker included."""
CEILING = 300
"""Of what a bomb tries, should the group not hold it."""


async def start(supervisor: StartSupervisor, proof: str) -> Supervisor:
    members: dict[str, Any] = {**HOSTILE_POOL, "modules": (*HOSTILE_POOL["modules"], "support.resource_hungry_jobs")}
    return await supervisor(PoolSpec("p", workers=2, spares=0, **members), proof=proof)


async def zygote_of(server: Supervisor) -> int:
    pid = (await pool_of(server)).zygote_pid
    assert pid is not None
    return pid


async def until_refused(group: Path, times: int) -> None:
    """Wait until the kernel has refused that many forks, from the first of the group on."""
    events = group / "pids.events"
    await until_async(
        lambda: int(events.read_text().split()[1]) >= times or Pending(events.read_text()), "forks are refused"
    )


async def until_alone(server: Supervisor, zygote: int) -> None:
    """Wait until nothing of any job or worker is left, and no directory of theirs."""

    async def is_alone() -> bool | Pending:
        groups = [path for root in processes.cgroups_of(os.getpid()) for path in root.iterdir() if path.is_dir()]
        left = [*processes.descendants(zygote), *groups, *await server.workers()]
        return not left or Pending(left)

    await until_async(is_alone, "the zygote is alone")


def said_of(caplog: pytest.LogCaptureFixture, message: str) -> list[str]:
    """Return the details of a line of the log."""
    return [vars(record)["detail"] for record in caplog.records if record.getMessage() == message]


@pytest.mark.row("D20")
@pytest.mark.code("timeout.queue", "cancelled")
async def test_a_fork_that_the_kernel_refuses_is_tried_again_and_said(
    proof: str, supervisor: StartSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """The jobs wait, for as long as they want to, whether a worker of the pool is at work or there is none."""
    caplog.set_level(logging.WARNING, "killable.pool")
    server = await start(supervisor, proof)
    busy = await submit(server, "loop_python")
    await wait_for_tokens(server, busy)
    zygote = await zygote_of(server)
    with cgroup_v1.group("pids", max=1) as group:
        cgroup_v1.move(group, zygote)
        waiting = await submit(server, "echoes")
        await until_refused(group, FAILURES_MAX + 1)
        assert (await record_with_workers(server, waiting)).state == "queued" and (
            await pool_of(server)
        ).state == "ready"
        why = f"pool p starts no more workers: {REFUSED}"
        await until_async(lambda: is_ready_but(server, why), "what waits has a reason")
        assert set(said_of(caplog, "worker_failed")) == {REFUSED} and not said_of(caplog, "pool_broken")
        (group / "pids.max").write_text("max")
        assert (await follow(server, waiting)).state == "completed"
        await until_async(lambda: is_ready_but(server), "its workers start again")
        assert (await pool_of(server)).replaced["not_started"] >= FAILURES_MAX
        assert (await stop(server, busy, grace_s=0)).code == "cancelled"
        await until_alone(server, zygote)

        (group / "pids.max").write_text("1")
        waiting = await submit(server, "echoes")
        hurried = await run(server, "echoes", limits={"queue_s": 0.05})
        assert hurried.code == "timeout.queue"

        async def is_restarting() -> bool | Pending:
            pool = await pool_of(server)
            return (pool.state, pool.detail) == ("restarting", REFUSED) or Pending(pool)

        await until_async(is_restarting, "the pool says that it can start no worker")
        assert (await server.ready())[0] is False and not said_of(caplog, "pool_broken")
        assert (await record_with_workers(server, waiting)).state == "queued"
        await until_alone(server, zygote)

        (group / "pids.max").write_text("max")
        assert (await follow(server, waiting)).state == "completed"
        await until_async(lambda: pool_is_ready(server), "the pool is ready again")
        after = await run(server, "echoes")
        assert after.state == "completed" and (await zygote_of(server)) == zygote
        await until_alone(server, zygote)


@pytest.mark.row("D20")
async def test_a_zygote_that_cannot_be_forked_is_forked_when_there_is_room_by_the_same_guard(
    proof: str, supervisor: StartSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """A guard that ended over it would leave to nobody what its last zygote had started."""
    caplog.set_level(logging.ERROR, "killable.pool")
    server = await start(supervisor, proof)
    zygote = await zygote_of(server)
    guard = int(processes.stat_field(zygote, "PPid"))
    with cgroup_v1.group("pids", max=1) as group:
        cgroup_v1.move(group, guard)
        os.kill(zygote, signal.SIGKILL)
        await until_refused(group, FAILURES_MAX)
        (group / "pids.max").write_text("max")
        await until_async(lambda: pool_is_ready(server), "the pool is ready again")
        assert (await run(server, "echoes")).state == "completed"
        following = await zygote_of(server)
        assert following != zygote and int(processes.stat_field(following, "PPid")) == guard
    gone = [vars(record)["ending"] for record in caplog.records if record.getMessage() == "zygote_gone"]
    assert gone[0] == f"signal {signal.SIGKILL:d}" and set(gone[1:]) == {REFUSED}


async def is_ready_but(server: Supervisor, *degraded: str) -> bool | Pending:
    found = await server.ready(reasons=True)
    return found == (True, list(degraded)) or Pending(found)


async def pool_is_ready(server: Supervisor) -> bool | Pending:
    pools = await pool_of(server), await pool_with_workers(server, "p")
    return all((pool.state, pool.detail) == ("ready", "") for pool in pools) or Pending(pools)


@pytest.mark.row("D5")
@pytest.mark.code("exception", "limit.processes", "cancelled")
async def test_a_job_whose_own_fork_is_refused_is_told_of_no_limit_that_is_not_its_own(
    proof: str, supervisor: StartSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    """It is an exception like any other, unless its own processes were counted; what it has forked is gone each time.

    And one that takes all the room there is takes the next job's worker, until it is ended.
    """
    caplog.set_level(logging.WARNING, "killable.pool")
    server = await start(supervisor, proof)
    zygote = await zygote_of(server)
    with cgroup_v1.group("pids", max=ROOM) as group:
        cgroup_v1.move(group, zygote)
        story = await run(server, "forks", children=CEILING)
        assert (story.state, story.code, story.error["type"]) == ("failed", "exception", "BlockingIOError")
        assert f"[Errno {errno.EAGAIN}]" in story.error["message"] and "in forks" in story.error["traceback"]
        assert story.certificate["processes_swept"] == ROOM - 2
        await until_alone(server, zygote)

        counted = await run(server, "bombs", ceiling=CEILING, limits={"processes_max": ROOM // 2, "grace_s": 0})
        assert (counted.code, counted.error["limit"]) == ("limit.processes", "processes_max")
        assert ROOM // 2 <= counted.error["processes"] < ROOM
        await until_alone(server, zygote)

        bomb = await submit(server, "bombs", ceiling=CEILING, limits={"processes_max": 2 * ROOM})
        await until_async(lambda: (group / "pids.current").read_text() == f"{ROOM}\n", "there is no more room")
        waiting = await submit(server, "echoes")
        before = len(said_of(caplog, "worker_failed"))
        await until_async(lambda: len(said_of(caplog, "worker_failed")) > before, "a fork is refused")
        assert (await record_with_workers(server, waiting)).state == "queued" and (
            await pool_of(server)
        ).state == "ready"
        assert (await stop(server, bomb, grace_s=0)).code == "cancelled"
        assert (await follow(server, waiting)).state == "completed"
        assert set(said_of(caplog, "worker_failed")) == {REFUSED}
        await until_alone(server, zygote)
