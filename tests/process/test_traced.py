"""Workers that are traced (ptrace(2)): the kernel tells their end to the tracer first, and it may never pass it on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from job_runs import END_S, follow, hostile_pool, run, stop, submit, wait_for_tokens
from support import processes
from support.supervisor_fixture import PROOFS, StartSupervisor
from support.waiting import Pending, until_async

from killable.workers.errors import Refused

SUPPORT = Path(processes.__file__).parent
EVERY_PROOF = pytest.mark.parametrize("proof", PROOFS)
MODULES = ("support.tracing_jobs", "support.hostile_jobs")


def pool(**changes: Any) -> Any:
    return hostile_pool(**{"modules": MODULES, **changes})


pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = pool()


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


@EVERY_PROOF
@pytest.mark.parametrize("stops_at_exit", [False, True])
@pytest.mark.parametrize("is_detached", [False, True])
async def test_a_job_that_its_own_child_traces_ends_and_the_child_with_it(
    supervisor: StartSupervisor, proof: str, stops_at_exit: bool, is_detached: bool
) -> None:
    """The zygote hears nothing of such an exit, and did not look for the child, which computed on."""
    server = await supervisor(pool(), proof=proof)
    job_id = await submit(
        server, "is_traced_by_its_child", stops_at_exit=stops_at_exit, is_detached=is_detached, limits={"grace_s": 0}
    )
    (child,) = map(int, await wait_for_tokens(server, job_id))
    story = await stop(server, job_id)
    assert story.state == "cancelled" and "tree_empty" in story.phases, story.certificate
    assert not story.alive and processes.has_ended(child)() is True
    assert (await run(server, "exits", code=3)).code == "exit", "and the next one is told of as ever"


@EVERY_PROOF
@pytest.mark.parametrize("stops_at_exit", [False, True])
async def test_a_job_that_another_one_traces_ends_all_the_same(
    supervisor: StartSupervisor, proof: str, stops_at_exit: bool
) -> None:
    server = await supervisor(pool(), proof=proof)
    victim = await submit(server, "loop_python", limits={"grace_s": 0})
    await wait_for_tokens(server, victim)
    pid = (await server.get(victim)).pid
    assert pid is not None
    tracer = await submit(server, "traces", pid=pid, stops_at_exit=stops_at_exit)
    await wait_for_tokens(server, tracer)
    certificate = (await server.cancel(victim, wait_s=END_S)).certificate
    assert certificate is not None and certificate["exit_signal"] == "SIGKILL" and "tree_empty" in certificate
    seen = processes.read_process(pid)
    assert seen is None or seen.state == "Z", seen
    if stops_at_exit:  # no other signal ends that stop
        assert (await follow(server, tracer)).code == "killed_externally"
    else:
        assert "max_rss_bytes" not in certificate and (await server.get(tracer)).state == "running"
        assert (await stop(server, tracer)).state == "cancelled"
    await until_async(lambda: processes.read_process(pid) is None or Pending("a zombie"), "and then it is reaped")


@pytest.mark.parametrize("stops_at_exit", [False, True])
async def test_an_orphan_that_another_job_traces_is_killed_with_its_job(
    supervisor: StartSupervisor, stops_at_exit: bool
) -> None:
    server = await supervisor(pool())
    victim = await submit(server, "has_an_orphan", limits={"grace_s": 0})
    (orphan,) = map(int, await wait_for_tokens(server, victim))
    tracer = await submit(server, "traces", pid=orphan, stops_at_exit=stops_at_exit)
    await wait_for_tokens(server, tracer)
    story = await stop(server, victim)
    assert story.state == "cancelled" and "tree_empty" in story.phases, story.certificate
    seen = processes.read_process(orphan)
    assert seen is None or seen.state == "Z", seen
    if stops_at_exit:
        assert (await follow(server, tracer)).code == "killed_externally"
    else:
        assert (await server.get(tracer)).state == "running"
        assert (await stop(server, tracer)).state == "cancelled"
    await until_async(lambda: processes.read_process(orphan) is None or Pending("a zombie"), "and then it is reaped")


async def test_a_job_of_another_pool_that_keeps_a_worker_from_ending_is_killed_for_it(
    supervisor: StartSupervisor,
) -> None:
    others = pool(name="others", modules=("support.tracing_jobs",))
    server = await supervisor(pool(modules=("support.hostile_jobs",)), others)
    victim = await submit(server, "loop_python", limits={"grace_s": 0})
    await wait_for_tokens(server, victim)
    pid = (await server.get(victim)).pid
    tracer = await submit(server, "traces", pid=pid, stops_at_exit=True)
    await wait_for_tokens(server, tracer)
    story = await stop(server, victim)
    assert story.state == "cancelled" and "tree_empty" in story.phases, story.certificate
    assert (await follow(server, tracer)).code == "killed_externally"


async def test_a_debugger_that_is_no_job_is_left_alone(supervisor: StartSupervisor) -> None:
    """It was started by the program that has the supervisor, and can keep a worker from ending."""
    server = await supervisor(pool(), unkillable_s=0.5)
    victim = await submit(server, "loop_python", limits={"grace_s": 0})
    await wait_for_tokens(server, victim)
    seize = f"seize({(await server.get(victim)).pid}, stops_at_exit=True)"
    code = f"from support.tracing_jobs import seize; {seize}; print('traces', flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=SUPPORT.parent) as debugger:
        assert debugger.stdout is not None and debugger.stdout.readline() == b"traces\n"
        session = Path(f"/proc/{(await server.get(victim)).pid}/autogroup")
        nice_before = session.read_text().split()[-1] if session.exists() else "5"
        with pytest.raises(Refused, match="the job had ended: failed"):
            await server.cancel(victim, wait_s=END_S)
        assert (await follow(server, victim)).code == "unkillable"
        assert debugger.poll() is None
        if session.exists() and nice_before == "5" and os.getuid() == 0:
            assert session.read_text().split()[-1] == "0", "a dying process does not wait for a processor"
    assert (await run(server, "exits", code=3)).code == "exit", "the pool has room again when the debugger has gone"


async def test_a_guard_that_a_job_keeps_as_a_zombie_holds_nobody_up(supervisor: StartSupervisor) -> None:
    server = await supervisor(pool(name="of its own"))
    job_id = await submit(server, "traces_and_kills_the_guard")
    (guard,) = map(int, await wait_for_tokens(server, job_id))
    record = await server.wait(job_id)
    assert record.error is not None and record.error["code"] == "worker_lost"
    await until_async(processes.has_ended(guard), "it is reaped when its tracer has gone")
    assert (await run(server, "exits", code=3)).code == "exit"
