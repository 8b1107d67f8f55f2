"""Cancelled means dead: when a reader has the terminal event in its hands, /proc shows nothing of the job."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_runs import (
    ENDED_WITH,
    FORKED_OR_EXECED,
    Story,
    hostile_pool,
    run,
    stop,
    submit,
    wait_for_tokens,
    wait_until_computing,
)
from support import certificate_checks, processes
from support.job_helpers import libc, process_name_of
from support.supervisor_fixture import CGROUP_PROOF, NEEDS_CGROUPS, StartSupervisor
from support.waiting import Pending, until, until_async

from killable.supervisor.settings import SandboxSpec
from killable.supervisor.supervisor import Supervisor
from killable.workers.runtime.sandbox import why_no_file_rules, why_no_network_rule

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHARED_POOL = hostile_pool()


@pytest.fixture
def supervisor(shared_or_own_supervisor: StartSupervisor) -> StartSupervisor:
    return shared_or_own_supervisor


KINDS = ["children", "setsid", "daemon", "each", "stopped"]
ENDS = ["returns", "crashes", "cancelled", "killed"]
COUNTS = {"children": 1, "setsid": 2, "daemon": 1, "each": 4, "stopped": 2}


@pytest.mark.row("PEERS-5")
@pytest.mark.row("D5")
@pytest.mark.parametrize("end", ENDS)
async def test_the_whole_family_is_gone_with_the_job(end: str, proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    for kind in KINDS:
        await end_with_family(server, kind, end, proof)


@pytest.mark.row("PEERS-5")
@pytest.mark.row("D5")
@FORKED_OR_EXECED
async def test_the_whole_family_is_gone_with_the_job_of_a_worker_that_has_served_before(
    start_method: str, proof: str, supervisor: StartSupervisor
) -> None:
    """Were it no subreaper any more, it would count as one that has no child, and its daemon go on."""
    pool = hostile_pool(workers=1, spares=0, start_method=start_method, jobs_per_worker_max=0)
    server = await supervisor(pool, proof=proof)
    for end in ENDS:
        earlier = await run(server, "echoes")
        story = await end_with_family(server, "daemon", end, proof)
        assert story.pid == earlier.pid


@pytest.mark.skipif(bool(why_no_network_rule() or why_no_file_rules()), reason="this machine has no sandbox")
@FORKED_OR_EXECED
async def test_the_whole_family_is_gone_with_the_job_in_a_sandbox(
    start_method: str, proof: str, supervisor: StartSupervisor
) -> None:
    rules = SandboxSpec(network=False, write=("/proc/self/comm",), read=())  # by that name a test finds processes
    pool = hostile_pool(workers=1, spares=0, start_method=start_method, jobs_per_worker_max=0, sandbox=rules)
    server = await supervisor(pool, proof=proof)
    for end in ENDS:
        await end_with_family(server, "each", end, proof)


@pytest.mark.row("D5")
@NEEDS_CGROUPS
async def test_what_has_moved_to_another_group_is_gone_with_the_job(supervisor: StartSupervisor) -> None:
    """`cgroup.kill` of the worker's group ends none of it, and its guard still knows them."""
    server = await supervisor(hostile_pool(), proof=CGROUP_PROOF)
    for grace_s in (None, 0):
        job_id = await submit(server, "moves_to_another_cgroup")
        ((daemon, has_moved),) = await wait_for_tokens(server, job_id)
        assert has_moved or os.geteuid() != 0, "who is not root may find no group that takes it"
        story = await stop(server, job_id, grace_s=grace_s)
        assert story.code == "cancelled" and story.certificate["processes_swept"] == 1
        assert processes.read_process(daemon) is None and processes.named(process_name_of(job_id)) == []


async def end_with_family(server: Supervisor, kind: str, end: str, proof: str) -> Story:
    """End a job that has forked in one of the ways, and find nothing of them all."""
    if end == "returns":
        story = await run(server, "leaves_family", kind=kind)
        family = story.end["result"]
    elif end == "crashes":
        story = await run(server, "crashes_with_family", kind=kind)
        (family,) = story.tokens
    else:
        job_id = await submit(server, "keeps_family", kind=kind)
        (family,) = await wait_for_tokens(server, job_id)
        found = {seen.pid for seen in processes.named(process_name_of(job_id))}
        assert set(family) < found, "the look into /proc finds what is there"
        story = await stop(server, job_id, grace_s=0 if end == "killed" else None)
    assert len(family) == COUNTS[kind] == story.certificate["processes_swept"]
    assert (
        [pid for pid in family if processes.read_process(pid)] == [] == processes.named(process_name_of(story.job_id))
    )
    assert story.certificate["proof"] == proof
    return story


async def dead_at_the_terminal_event(server: Supervisor, trials: int) -> None:
    """Cancel jobs that have grandchildren in sessions of their own; `follow` looks at the moment of the event."""
    turns = asyncio.Semaphore(4)

    async def trial(number: int) -> Story:
        async with turns:
            job_id = await submit(server, "keeps_family", kind="setsid")
            await wait_for_tokens(server, job_id)
            assert len(processes.named(process_name_of(job_id))) == 3
            return await stop(server, job_id, grace_s=[None, 0][number % 2])

    stories = await asyncio.gather(*map(trial, range(trials)))
    assert len(stories) == trials and all(story.alive == [] for story in stories)


@pytest.mark.row("PEERS-4", "PEERS-B")
@pytest.mark.row("B6")
@pytest.mark.row("D5")
async def test_nothing_lives_at_the_terminal_event(proof: str, supervisor: StartSupervisor) -> None:
    await dead_at_the_terminal_event(await supervisor(hostile_pool(workers=4, spares=2), proof=proof), 50)


@pytest.mark.soak
async def test_nothing_lives_at_the_terminal_event_in_many_trials(proof: str, supervisor: StartSupervisor) -> None:
    await dead_at_the_terminal_event(await supervisor(hostile_pool(workers=4, spares=2), proof=proof), 200)


async def test_a_job_that_forks_as_fast_as_it_can_is_gone_with_all_its_forks(
    proof: str, supervisor: StartSupervisor
) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    for grace_s in (0, None):
        job_id = await submit(server, "forks_steadily")

        def forked(job_id: str = job_id) -> bool | Pending:
            return len(found := processes.named(process_name_of(job_id))) > 10 or Pending(found)

        await until_async(forked, "it has forked")
        story = await stop(server, job_id, grace_s=grace_s)
        assert story.certificate["processes_swept"] > 5


@pytest.mark.row("D5")
async def test_the_guard_is_what_finds_a_daemon(tmp_path: Path) -> None:
    """The control: the same family under a parent that is only killed lives on, and the look into /proc sees it."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import time; from support.job_helpers import fork_one\n"
        "print(fork_one(new_session=True), fork_one(new_session=True, twice=True), flush=True)\n"
        "time.sleep(3600)"
    )
    folder = str(Path(processes.__file__).parent.parent)
    with subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        family = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    try:
        assert len(family) == 2
        found = [processes.read_process(pid) for pid in family]
        assert all(seen is not None and seen.state != "Z" for seen in found), found
        assert set(family) <= {seen.pid for seen in processes.started_by_tests()}
    finally:
        for pid in family:
            os.kill(pid, signal.SIGKILL)
    # Whoever adopted them has to reap them before the leak guard looks.
    until(lambda: Pending(left) if (left := [pid for pid in family if processes.read_process(pid)]) else True, "reaped")


@pytest.mark.row("PEERS-15")
@pytest.mark.row("D7")
async def test_no_zombie_is_left_by_a_stress_of_endings(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(workers=4, spares=2), proof=proof)

    async def one(number: int) -> None:
        match number % 6:
            case 0:
                await run(server, "leaves_zombies")
            case 1:
                await run(server, "leaves_family", kind="each")
            case 2:
                await run(server, "crashes_with_family", kind="daemon")
            case 3:
                await run(server, "exits", code=number)
            case 4:
                await run(server, "echoes")
            case 5:
                job_id = await submit(server, "loop_python")
                await wait_until_computing(server, job_id, 0.002)
                await stop(server, job_id)

    await asyncio.gather(*map(one, range(60)))
    # A worker that has just ended is a zombie until it is reaped: a moment, not for good.
    await until_async(
        lambda: Pending(zombies) if (zombies := [s for s in processes.started_by_tests() if s.state == "Z"]) else True,
        "no zombies",
    )


async def test_a_stop_in_the_middle_of_a_fork_is_raised_behind_it(supervisor: StartSupervisor) -> None:
    """In a hook of logging's, the first code behind each fork, it would be swallowed, and leave its lock taken."""
    server = await supervisor(hostile_pool(workers=2, spares=2))
    turns = asyncio.Semaphore(2)

    async def one(number: int) -> None:
        async with turns:
            job_id = await submit(server, "forks_until_told", limits={"grace_s": 30, "ack_s": None})
            await wait_until_computing(server, job_id, number / 10_000)
            story = await stop(server, job_id)
            assert (story.tokens, story.lines) == (["in", [True]], []), story.certificate

    await asyncio.gather(*map(one, range(40)))


async def test_zombies_of_a_job_go_with_it(proof: str, supervisor: StartSupervisor) -> None:
    server = await supervisor(hostile_pool(), proof=proof)
    story = await run(server, "leaves_zombies", count=7)
    assert story.state == "completed" and story.certificate["processes_swept"] == 7


@pytest.mark.code("unkillable")
@pytest.mark.row("PEERS-J", "PEERS-15")
@pytest.mark.row("D15")
async def test_a_process_that_does_not_go_away_is_given_up_and_its_slot_set_aside(
    proof: str, supervisor: StartSupervisor
) -> None:
    """As under a debugger that stops what it traces at its exit (PTRACE_O_TRACEEXIT): no SIGKILL ends that."""
    server = await supervisor(hostile_pool(workers=2), proof=proof, unkillable_s=4)
    job_id = await submit(server, "ignores_term")
    pid = await wait_until_computing(server, job_id)
    assert libc().ptrace(0x4206, pid, None, 0x40) == 0  # PTRACE_SEIZE: it goes on as before
    try:
        await server.cancel(job_id, grace_s=0, wait_s=0)
        record = await server.wait(job_id)
    finally:
        # Let it go on, and wait as its tracer, which lets the zombie go to its parent.
        assert os.WIFSTOPPED(os.waitpid(pid, 0x40000000)[1])  # __WALL
        assert libc().ptrace(7, pid, None, None) == 0  # PTRACE_CONT
        assert os.waitpid(pid, 0x40000000) == (pid, signal.SIGKILL)
    assert (record.state, record.error and record.error["code"]) == ("failed", "unkillable")
    ENDED_WITH.add("unkillable")
    assert record.certificate is not None and "tree_empty" not in record.certificate
    assert "proof" not in record.certificate
    certificate_checks.check_certificate(record.certificate, "unkillable", "user")
    # Until it is gone its slot is not used, and everyone is told; the other slot works.
    (pool,) = await server.pools()
    ready, degraded = await server.ready()
    assert pool.quarantined == 1 and ready and any("quarantined" in line for line in degraded)
    assert (await run(server, "echoes")).state == "completed"

    async def freed() -> bool | Pending:
        (pool,) = await server.pools()
        return not pool.quarantined or Pending(pool)

    await until_async(freed, "the slot is free again")
    assert (await server.ready()) == (True, [])
