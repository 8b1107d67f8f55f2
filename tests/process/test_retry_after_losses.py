"""Another attempt after an end that no job can bring about by itself: its worker, its zygote or its node was lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from job_runs import Story, follow, pool_of, run, submit
from support import processes
from support.engines import Cluster
from support.socket_carrier import SocketCarrier
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.cluster.lease import Times
from killable.supervisor.cluster.node_pools import NodePools
from killable.supervisor.settings import PoolSpec, Settings
from killable.supervisor.supervisor import Supervisor

SUPPORT = Path(processes.__file__).parent
POOL = PoolSpec("p", (str(SUPPORT / "retried_jobs.py"),), 1, env={"PYTHONPATH": str(SUPPORT.parent)})


def is_run_again(story: Story, code: str) -> None:
    """The first attempt has ended so, nothing is left of it, and the second one has completed."""
    assert story.record is not None and (story.state, story.record.attempts) == ("completed", 2), story.end
    (told,) = story.data("retrying")
    assert (told["error"]["code"], told["attempt"]) == (code, 1)
    assert told["certificate"].get("proof") or told["error"].get("fenced") == "swept"


async def until_running(running: Supervisor, job_id: str) -> int:
    """Return the process of a job that has begun."""
    async for batch in running.events(job_id):
        if batch[-1].name == "progress":
            break
    else:
        raise AssertionError(await running.get(job_id))
    pid = (await running.get(job_id)).pid
    assert pid is not None
    return pid


@pytest.mark.row("D25")
async def test_a_job_that_was_silent_for_too_long(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    story = await run(running, "goes_quiet", limits={"idle_s": 0.3})
    is_run_again(story, "timeout.idle")
    assert story.plot == ["started", "token", "retrying", "started", "token", "completed"]


@pytest.mark.row("D25")
async def test_a_job_whose_zygote_was_killed(supervisor: StartSupervisor) -> None:
    running = await supervisor(POOL)
    job_id = await submit(running, "holds")
    pid, zygote = await until_running(running, job_id), (await pool_of(running)).zygote_pid
    assert zygote is not None
    os.kill(zygote, signal.SIGKILL)
    is_run_again(await follow(running, job_id), "worker_lost")
    assert processes.read_process(pid) is None


@pytest.mark.row("D25")
async def test_a_job_whose_worker_did_not_begin(supervisor: StartSupervisor) -> None:
    """It stops before it has read its order."""
    running = await supervisor(POOL._replace(spares=1))

    async def idle() -> int | Pending:
        workers = await running.workers()
        return next((each.pid for each in workers if each.state == "idle" and each.pid), 0) or Pending(workers)

    pid = await until_async(idle, "a worker is idle")
    os.kill(pid, signal.SIGSTOP)
    await until_async(
        lambda: (processes.read_process(pid) or Pending(None)).state == "T" or Pending("?"), "it is stopped"
    )
    record = await running.wait(
        await submit(running, "begins", limits={"start_s": 0.1, "grace_s": 0, "attempts_max": 9})
    )
    told = [json.loads(each.data) async for batch in running.events(record.job_id) for each in batch]
    assert (record.state, record.attempts) == ("completed", len(told) - 1)
    assert {each["error"]["code"] for each in told if each.get("error")} == {"timeout.start"}
    assert processes.read_process(pid) is None


@pytest.mark.row("D25")
async def test_a_job_whose_node_was_drained() -> None:
    cluster = Cluster(("a", "b"), Times(lease_s=60, poll_s=0.5, patience_s=30))
    head = cluster.head(Settings(pools=(POOL,), sweep=False))
    await head.start()
    try:
        job_id = await submit(head, "holds")
        pid = await until_running(head, job_id)
        node = (await head.get(job_id)).node
        assert node is not None
        await head.drain_node(node, deadline_s=0)
        story = await follow(head, job_id)
        is_run_again(story, "node_drained")
        assert processes.read_process(pid) is None and story.record is not None and story.record.node != node
    finally:
        await head.close(grace_s=0)


@pytest.mark.row("D25")
async def test_a_job_whose_node_was_killed(tmp_path: Path) -> None:
    settings = Settings(pools=(POOL,), sweep=False)
    carrier = SocketCarrier(tmp_path, settings, ("a",))
    head = Supervisor(
        settings, remote_pools=NodePools(settings, carrier, Times(lease_s=600, poll_s=0.25, patience_s=1))
    )
    await head.start()
    try:
        job_id = await submit(head, "holds")
        pid = await until_running(head, job_id)
        carrier.kill("a")
        is_run_again(await follow(head, job_id), "node_lost")
        assert processes.read_process(pid) is None
    finally:
        await head.close(grace_s=0)
