"""Sixteen jobs on however few cores: each is ended by what it did itself, not by what the others left it.

How a worker was started is no part of that: what is measured is its main thread, whose number is its own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from job_runs import Story, follow, hostile_pool, stop, submit, wait_until_computing
from support import cgroup_v1
from support.certificate_checks import was_killed
from support.supervisor_fixture import StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.supervisor import Supervisor

CROWD = 16
QUOTA = {"cfs_period_us": 100_000, "cfs_quota_us": 5_000}
"""A twentieth of one processor for all of them."""
ITEMS = 500_000
"""Some 8 ms of C between SIGTERM and the answer: longer than one of them has the processor for."""


@pytest.mark.row("PEERS-C", "PEERS-F")
async def test_sixteen_native_jobs_are_killed_together_and_early(supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=CROWD, spares=4), ack_cpu_s=0.02)
    jobs = [await submit(server, "hold_gil", limits={"grace_s": 60, "ack_s": 0.1}) for _ in range(CROWD)]
    for job_id in jobs:
        await wait_until_computing(server, job_id, 0.001)
    for story in await asyncio.gather(*(stop(server, job_id) for job_id in jobs)):
        assert story.certificate["exit_signal"] == "SIGKILL" and "early_kill" in story.certificate
        assert "delivered" in story.phases and "acknowledged" not in story.phases


async def cancel_starved(server: Supervisor, group: Path) -> list[Story]:
    """Start a crowd, take nearly all of the processor from it, and cancel it."""
    limits = {"grace_s": 30, "ack_s": 0.05}
    jobs = [await submit(server, "loop_python", items=ITEMS, limits=limits) for _ in range(CROWD)]
    for job_id in jobs:
        cgroup_v1.move(group, await wait_until_computing(server, job_id, 0.001))

    def bites() -> bool | Pending:
        counts = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
        return int(counts["nr_throttled"]) >= 2 or Pending(counts)

    await until_async(bites, "the quota bites")
    cancels = [asyncio.create_task(server.cancel(job_id, wait_s=60)) for job_id in jobs]
    stories = [await follow(server, job_id) for job_id in jobs]
    await asyncio.gather(*cancels)
    return stories


def has_cleaned(story: Story) -> bool:
    return story.tokens == ["in", "finally"] and not was_killed(story.certificate)


@pytest.mark.row("PEERS-C")
async def test_sixteen_starved_python_jobs_all_clean_up(supervisor: StartSupervisor) -> None:
    with cgroup_v1.group("cpu", **QUOTA) as group:
        server = await supervisor(hostile_pool(workers=CROWD, spares=4))
        stories = await cancel_starved(server, group)
    assert all(map(has_cleaned, stories)), [story.certificate for story in stories if not has_cleaned(story)]


async def test_by_a_rule_of_time_alone_the_starved_are_killed(supervisor: StartSupervisor) -> None:
    """The control: who gets no processor between SIGTERM and the answer does not hear in `ack_s`."""
    with cgroup_v1.group("cpu", **QUOTA) as group:
        server = await supervisor(hostile_pool(workers=CROWD, spares=4), ack_cpu_s=0.0)
        stories = await cancel_starved(server, group)
    assert any("early_kill" in story.certificate for story in stories), "nobody was taken for stuck"
