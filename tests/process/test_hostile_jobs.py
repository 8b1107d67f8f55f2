"""Every hostile job through the real guard, zygote and supervisor: how it ends, that it does, and whom it hurts.

By every kind of worker: forked or exec'd, fresh or used again, with either proof that its tree is gone; each pair of
these three together. By exec'd ones two jobs of each kind: each is an interpreter that starts.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from job_runs import HOSTILE_POOL, SETTLED, Story, follow, hostile_pool, run, stop, submit, wait_for_tokens
from support.certificate_checks import check_row
from support.engines import certificate_so_far
from support.hostile_job_table import (
    ACK_S,
    ANOTHER_OF_EACH_KIND,
    EXIT_PHASES,
    FROM_START_S,
    GRACE_S,
    LONG_S,
    ONE_OF_EACH_KIND,
    TABLE,
    HostileCase,
)
from support.supervisor_fixture import CGROUP_PROOF, StartSupervisor
from support.waiting import Pending, until_async

from killable.supervisor.supervisor import Supervisor

AT_ONCE = 3


async def play(server: Supervisor, case: HostileCase) -> Story:
    """Run one hostile job; cancel it once it is where it will stay, unless it ends by itself."""
    limits = {"grace_s": LONG_S if case.await_phase else case.grace_s, "ack_s": ACK_S, **case.limits}
    job_id = await submit(server, case.type, limits=limits, **case.input)
    if not case.settle:
        return await follow(server, job_id)
    await SETTLED[case.settle](server, job_id)
    if case.await_phase:
        await server.cancel(job_id, wait_s=0)

        async def phase_happened() -> bool | Pending:
            certificate = await certificate_so_far(server, job_id)
            return case.await_phase in certificate or Pending(certificate)

        await until_async(phase_happened, f"{case}: {case.await_phase}")
    return await stop(server, job_id, grace_s=case.grace_s)


def check(case: HostileCase, story: Story, *, proof: str, reused: bool) -> None:
    """Check the story of a job against its row of the table; `follow` has checked what holds for all."""
    assert (story.state, story.code) == (case.state, case.code), story.error
    # What is printed comes by a pipe of its own, before or after.
    told = [name for name, _ in groupby(name for name in story.names if name != "log")]
    assert told == [name for name in (*case.plot, case.state) if name != "log"]
    assert ("log" in story.names) == ("log" in case.plot), story.lines
    assert not case.code or story.error.items() >= case.error.items(), story.error
    if case.tokens is not None:
        assert story.tokens == list(case.tokens)
    assert not case.settle or story.error["by"] == "user"
    check_row(case, story.certificate, proof=proof, reused=reused)
    record = story.record
    assert record is not None and record.ended_at is not None
    if not case.settle and record.started_at is not None:
        ran_s = datetime.fromisoformat(record.ended_at) - datetime.fromisoformat(record.started_at)
        assert ran_s.total_seconds() <= case.within_s, record


def stack_written(pid: int) -> bytes:
    """Return what was written, by faulthandler or the signal handler, to the memory file of a worker's stack."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(descriptor).startswith("/memfd:killable-stack"):
            return descriptor.read_bytes()
    raise AssertionError("the worker has no memory file for its stack")


@pytest.mark.row("B3", "B4", "D1", "D2", "D3", "D20", "D21", "H5", "PEERS-3", "PEERS-7", "PEERS-8")
@pytest.mark.code(*{case.code for case in TABLE if case.code})
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("start_method", "jobs_per_worker_max", "proof", "table"),
    [
        ("fork", 0, CGROUP_PROOF, TABLE),
        ("fork", 1, "descendants", TABLE),
        ("spawn", 1, CGROUP_PROOF, ONE_OF_EACH_KIND),
        ("spawn", 0, "descendants", ANOTHER_OF_EACH_KIND),
    ],
    ids=["fork-reused-cgroup", "fork-fresh", "spawn-fresh-cgroup", "spawn-reused"],
)
async def test_every_hostile_job_ends_as_its_row_says_and_hurts_nobody(
    start_method: str, jobs_per_worker_max: int, proof: str, table: Sequence[HostileCase],
    supervisor: StartSupervisor, long_dump_waits: None,
) -> None:  # fmt: skip
    modules = (*HOSTILE_POOL["modules"], "support.resource_hungry_jobs", "support.operation_jobs")
    kind = {"start_method": start_method, "jobs_per_worker_max": jobs_per_worker_max}
    pool = hostile_pool(modules=modules, workers=AT_ONCE + 1, spares=1, **kind)
    server = await supervisor(pool, proof=proof, ack_cpu_s=0.05)
    assert (await server.pools())[0].start_method == start_method
    neighbour = await submit(server, "waits", where="event", limits={"run_s": 3600})
    await wait_for_tokens(server, neighbour)
    usual, looked = await look_around(server)
    turns = asyncio.Semaphore(AT_ONCE)
    failures: list[str] = []
    pids = [looked]

    async def one(case: HostileCase) -> None:
        async with turns:
            try:
                story = await play(server, case)
                pids.append(story.pid)
                check(case, story, proof=proof, reused=jobs_per_worker_max == 0)
                if jobs_per_worker_max != 1:
                    found, looked = await look_around(server)
                    pids.append(looked)
                    assert found == usual
            except Exception as error:
                told = "".join(traceback.format_exception(error))
                failures.append(f"── {case} ({case.type} {case.input})\n{told}")

    await asyncio.gather(*map(one, table))
    assert not failures, f"{len(failures)} of {len(table)} hostile jobs:\n" + "\n".join(failures)
    assert (len(set(pids)) < len(pids)) == (jobs_per_worker_max == 0), "used again, or each fresh"
    assert (await server.get(neighbour)).state == "running"
    living = [worker.pid for worker in await server.workers() if worker.state in ("idle", "busy") and worker.pid]
    assert living and all(stack_written(pid) == b"" for pid in living), "a worker that lives was asked for its stack"
    assert (await look_around(server))[0] == usual
    assert (await stop(server, neighbour)).code == "cancelled"


async def look_around(server: Supervisor) -> tuple[dict[str, Any], int]:
    """Return what an innocent job finds in a worker of the pool, and the pid of that."""
    story = await run(server, "looks_around")
    assert story.state == "completed", story.error
    found: dict[str, Any] = story.end["result"]
    return found, story.pid


@pytest.mark.row("D15")
async def test_without_a_grace_every_job_is_killed_at_once(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    stubborn = {
        "hold_gil": "computing",
        "ignores_term": "computing",
        "blocks_term": "computing",
        "stops_itself": "stopped",
    }
    for type, settle in stubborn.items():
        job_id = await submit(server, type)
        await SETTLED[settle](server, job_id)
        story = await stop(server, job_id, grace_s=0)
        assert story.phases == EXIT_PHASES | {"kill_sent"}, type
        assert story.certificate["exit_signal"] == "SIGKILL" and story.certificate["grace_s"] == 0


@pytest.mark.row("C1", "H5", "PEERS-9", "PEERS-10")
@pytest.mark.code("timeout.run")
@pytest.mark.parametrize("type", ["loop_python", "hold_gil", "ignores_term"])
async def test_a_run_deadline_ends_it_like_a_cancel_and_reads_as_a_timeout(
    type: str, supervisor: StartSupervisor
) -> None:
    early = type == "hold_gil"
    server = await supervisor(hostile_pool())
    # Only of this one does it matter where the deadline finds it; until then it uses no processor time.
    run_s, input = (FROM_START_S, {"patient": True}) if early else (0.5, {})
    limits = {"run_s": run_s, "grace_s": LONG_S if early else GRACE_S, "ack_s": ACK_S}
    story = await run(server, type, limits=limits, **input)
    assert (story.state, story.code) == ("timed_out", "timeout.run")
    assert (story.error["limit"], story.error["limit_s"], story.error["by"]) == ("run_s", run_s, "supervisor")
    assert ("early_kill" in story.certificate) == early
    assert story.certificate["cause"] == "timeout.run"


async def test_an_exception_names_the_jobs_own_line(supervisor: StartSupervisor) -> None:
    story = await run(await supervisor(hostile_pool()), "raises_unpicklable")
    told = story.error["traceback"]
    frame = told.splitlines()[1]
    assert "in raises_unpicklable" in frame and "hostile_jobs.py" in frame
    assert told.count("  File ") == 1, "the frames of its own are not the author's"
